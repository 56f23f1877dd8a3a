"""Two towers for a log that knows ids and their order: every place of a history asks for what came next."""

import json
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import normalize

from watchnext.nn.encoders import encoder_of
from watchnext.nn.id_tables import FULL, Table
from watchnext.nn.weights import described, rebuilt


class SequenceTowers(nn.Module):
    """Video tower: a table of vectors. Query tower: the same vectors of the history, through an encoder.

    table       makes one of nn/id_tables.py
    gain        length of a video's vector as the encoder reads it, in units of sqrt(dimension)
    places      watches the encoder is shown, the last ones
    """

    def __init__(
        self,
        *,
        videos: int,
        dimension: int,
        encoder: str,
        heads: int,
        blocks: int,
        places: int,
        gain: float,
        dropout: float,
        table: partial = FULL,
    ) -> None:
        super().__init__()
        self.recipe = {"videos": videos, "dimension": dimension, "encoder": encoder, "heads": heads, "blocks": blocks,
                       "places": places, "gain": gain, "dropout": dropout, "table": described(table)}  # fmt: skip
        self.videos, self.dimension, self.places = videos, dimension, places
        # The last row is the padding. No loss sees it, as places only know what lies before them, so it learns nothing.
        self.table: Table = table(rows=videos + 1, dimension=dimension, std=dimension**-0.5)
        self.encoder = encoder_of(encoder, dimension=dimension, heads=heads, blocks=blocks, places=places, dropout=dropout)
        self.length, self.dropout = gain * dimension**0.5, nn.Dropout(dropout)

    def start_from(self, vectors: Tensor) -> None:
        """Video vectors (V, D) to train on from. Raises ValueError for a table whose rows share vectors."""
        self.table.start_from(vectors)

    def video(self, rows: Tensor) -> Tensor:
        """Unit vectors (..., D) of video rows (...)."""
        return normalize(self.table(rows), dim=-1)

    def queries(self, histories: Tensor) -> Tensor:
        """Unit vectors (B, H, D) of histories (B, H), oldest first, `videos` behind the last: what each place asks for."""
        watched = normalize(self.table(histories), dim=-1) * self.length
        return normalize(self.encoder(self.dropout(watched)), dim=-1)

    def query(self, histories: Tensor, lengths: Tensor) -> Tensor:
        """Unit vectors (B, D): what the last watch of each history asks for. A history of length 0 asks from its padding."""
        return self.queries(histories)[torch.arange(len(histories)), (lengths - 1).clamp(min=0)]

    def save(self, folder: Path) -> None:
        """weights.safetensors, and the recipe in model.json."""
        save_file(
            {name: tensor.contiguous() for name, tensor in self.state_dict().items()}, Path(folder) / "weights.safetensors"
        )
        (Path(folder) / "model.json").write_text(json.dumps(self.recipe, indent=1))

    @classmethod
    def load(cls, folder: Path) -> "SequenceTowers":
        """In evaluation mode. Raises FileNotFoundError where nothing was saved."""
        if not (Path(folder) / "model.json").exists():
            raise FileNotFoundError(f"{folder} holds no towers; train them and call save() first")
        recipe = json.loads((Path(folder) / "model.json").read_text())
        towers = cls(**recipe | {"table": rebuilt(recipe["table"])})
        towers.load_state_dict(load_file(Path(folder) / "weights.safetensors"))
        return towers.eval()
