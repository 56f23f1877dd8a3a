"""The towers reduced to ids: a vector a viewer, a vector a video. What the other towers have to beat."""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.functional import normalize

from watchnext.features.encode.encodings import InputSizes
from watchnext.nn.embeddings import IdDropout


class IdTower(nn.Module):
    """The codes `block` (N, F) > unit vectors (N, dimension) of the one at `place`."""

    def __init__(self, *, block: str, place: int, size: int, dimension: int, id_dropout: float) -> None:
        super().__init__()
        self.block, self.place = block, place
        self.dropped = IdDropout(place=place, probability=id_dropout)
        self.table = nn.Embedding(size, dimension)
        nn.init.normal_(self.table.weight, std=dimension**-0.5)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return normalize(self.table(self.dropped(inputs[self.block])[..., self.place]), dim=-1)


class MatrixFactorization(nn.Module):
    """Matrix factorisation (Koren et al., Computer 2009) as two towers, to be trained, exported and served like them.

    Deviations: unit vectors under a temperature, so that only the inputs differ from the other towers. No biases: one of a
    video is a direction that all viewers share, one of a viewer ranks nothing.

    A viewer unknown in training has the vector of code 0: of the rare ones, and of everyone, as `id_dropout` hides in training
    who is asking. It is what suits the average viewer. All unknown videos share one vector too, that of the rare ones.

    Raises ValueError where the schema does not declare user_id and video_id.
    """

    def __init__(self, *, sizes: InputSizes, dimension: int, id_dropout: float) -> None:
        super().__init__()
        if sizes.user_id is None or sizes.video_id is None:
            raise ValueError("matrix factorization knows ids alone: declare user_id and video_id in the feature schema")
        of_user, of_video = sizes.user_codes[sizes.user_id], sizes.video_codes[sizes.video_id]
        self.query = IdTower(block="user_codes", place=sizes.user_id, size=of_user, dimension=dimension, id_dropout=id_dropout)
        self.video = IdTower(block="video_codes", place=sizes.video_id, size=of_video, dimension=dimension, id_dropout=0.0)
