"""Matrix factorization as two towers of ids: one vector per viewer and per video. The baseline for other towers."""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.functional import normalize

from watchnext.features.encode.encodings import InputSizes
from watchnext.nn.embeddings import IdDropout
from watchnext.nn.id_tables import FullTable


class IdTower(nn.Module):
    """Embed the code in `column` of the input `block` (N, F) as unit vectors (N, dimension)."""

    def __init__(self, *, block: str, column: int, size: int, dimension: int, id_dropout: float) -> None:
        super().__init__()
        self.block, self.column = block, column
        self.dropped = IdDropout(column=column, probability=id_dropout)
        self.table = FullTable(rows=size, dimension=dimension, std=dimension**-0.5)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return normalize(self.table(self.dropped(inputs[self.block])[..., self.column]), dim=-1)


class MatrixFactorization(nn.Module):
    """Matrix factorization (Koren et al., Computer 2009) as two towers, trained, exported and served like other towers.

    Deviations: unit vectors under a temperature, so that only the inputs differ from the other towers. No biases: a video bias
    is a direction that all viewers share, and a viewer bias does not affect the ranking.

    An unknown viewer has the vector of code 0, trained on rare viewers and, through `id_dropout`, on all viewers: it fits the
    average viewer. Unknown videos share the vector of rare videos.

    Raises ValueError where the schema does not declare user_id and video_id.
    """

    def __init__(self, *, sizes: InputSizes, dimension: int, id_dropout: float) -> None:
        super().__init__()
        if sizes.user_id is None or sizes.video_id is None:
            raise ValueError("matrix factorization needs ids: declare user_id and video_id in the feature schema")
        of_user, of_video = sizes.user_codes[sizes.user_id], sizes.video_codes[sizes.video_id]
        self.query = IdTower(block="user_codes", column=sizes.user_id, size=of_user, dimension=dimension, id_dropout=id_dropout)
        self.video = IdTower(block="video_codes", column=sizes.video_id, size=of_video, dimension=dimension, id_dropout=0.0)
