"""Sequential two-tower model for a log of ids: every position of a history predicts the next video."""

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
    """Video tower: a table of vectors. Query tower: an encoder over the same vectors of the history.

    table       builds one of nn/id_tables.py
    gain        length of a video's vector at the encoder input, in units of sqrt(dimension)
    places      last watches that the encoder reads
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
        # The last row is padding. Encoders are causal, so no loss depends on it and it is not trained.
        self.table: Table = table(rows=videos + 1, dimension=dimension, std=dimension**-0.5)
        self.encoder = encoder_of(encoder, dimension=dimension, heads=heads, blocks=blocks, places=places, dropout=dropout)
        self.length, self.dropout = gain * dimension**0.5, nn.Dropout(dropout)

    def start_from(self, vectors: Tensor) -> None:
        """Initialise the table with video vectors (V, D). Raises ValueError for a table whose rows share vectors."""
        self.table.start_from(vectors)

    def video(self, rows: Tensor) -> Tensor:
        """Compute unit vectors (..., D) of video rows (...)."""
        return normalize(self.table(rows), dim=-1)

    def queries(self, histories: Tensor) -> Tensor:
        """Compute query vectors (B, H, D) of each position of histories (B, H), oldest first, padded with `videos`."""
        watched = normalize(self.table(histories), dim=-1) * self.length
        return normalize(self.encoder(self.dropout(watched)), dim=-1)

    def query(self, histories: Tensor, lengths: Tensor) -> Tensor:
        """Compute query vectors (B, D) at the last watch of each history; an empty history uses its padding."""
        return self.queries(histories)[torch.arange(len(histories)), (lengths - 1).clamp(min=0)]

    def save(self, folder: Path) -> None:
        """Write weights.safetensors, and the recipe in model.json."""
        save_file(
            {name: tensor.contiguous() for name, tensor in self.state_dict().items()}, Path(folder) / "weights.safetensors"
        )
        (Path(folder) / "model.json").write_text(json.dumps(self.recipe, indent=1))

    @classmethod
    def load(cls, folder: Path) -> "SequenceTowers":
        """Load in evaluation mode. Raises FileNotFoundError if nothing was saved."""
        if not (Path(folder) / "model.json").exists():
            raise FileNotFoundError(f"{folder} holds no towers; train them and call save() first")
        recipe = json.loads((Path(folder) / "model.json").read_text())
        towers = cls(**recipe | {"table": rebuilt(recipe["table"])})
        towers.load_state_dict(load_file(Path(folder) / "weights.safetensors"))
        return towers.eval()
