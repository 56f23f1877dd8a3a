"""What every watch-time head is to the rest: so many logits, a loss, and seconds."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from watchnext.ranking.watch_time.duration_groups import checked
from watchnext.ranking.watch_time.expectation import seconds


class WatchTime(nn.Module, ABC):
    """Reads `logits` columns of a network's output as watch time. Not trained itself: what it knows are arrays fitted on
    training rows, kept as buffers so that they are saved with the network and traced into its graph.

    kind    name of its formula in `expectation.SECONDS`
    logits  how many columns it needs
    """

    kind: ClassVar[str]

    def __init__(self, *, logits: int, shapes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__()
        self.logits = logits
        for name, shape in shapes.items():
            self.register_buffer(name, torch.full(shape, float("nan")))

    def fit(self, watch_s: np.ndarray, duration_s: np.ndarray) -> None:
        """Learn the arrays of training rows: seconds (N,), and durations (N,), nan or 0 where unknown. Raises ValueError for
        no rows, and for seconds that are not finite or below 0."""
        self.load_arrays(self._fitted(*checked(watch_s, duration_s)))

    def load_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        """What `arrays` gave. Raises ValueError where a name or a shape is another."""
        mine = {name: tuple(buffer.shape) for name, buffer in self._arrays().items()}
        given = {name: np.shape(array) for name, array in arrays.items()}
        if mine != given:
            raise ValueError(f"{type(self).__name__} needs the arrays {mine}, got {given}; fit it with the settings it has now")
        for name, buffer in self._arrays().items():
            buffer.copy_(torch.from_numpy(np.array(arrays[name], np.float32)))

    def arrays(self) -> dict[str, np.ndarray]:
        """The fitted arrays, for a folder without pickle; `expectation.seconds(kind, arrays, ...)` needs no more."""
        return {name: buffer.cpu().numpy().copy() for name, buffer in self._arrays().items()}

    def _arrays(self) -> dict[str, Tensor]:
        return dict(self.named_buffers(recurse=False))

    def loss(self, logits: Tensor, watch_s: Tensor, duration_s: Tensor) -> Tensor:
        """Mean of `losses`. Raises RuntimeError before `fit`."""
        return self.losses(logits, watch_s, duration_s).mean()

    def losses(self, logits: Tensor, watch_s: Tensor, duration_s: Tensor) -> Tensor:
        """(N,) of `logits` (N, L), `watch_s` (N,), `duration_s` (N,) with 0 where unknown; about 1 a row where nothing is
        learned."""
        if logits.ndim != 2 or logits.shape[1] != self.logits:
            raise ValueError(f"{type(self).__name__} was given logits {tuple(logits.shape)}, expected (N, {self.logits})")
        if any(buffer.isnan().any() for buffer in self._arrays().values()):
            raise RuntimeError(f"{type(self).__name__} has not seen the training rows; call fit(watch_s, duration_s) first")
        return self._losses(logits, watch_s, duration_s)

    def seconds(self, logits: Tensor, duration_s: Tensor) -> Tensor:
        """(N,) expected seconds; tensor operations only, so that it can be traced and exported."""
        return seconds(self.kind, self._arrays(), logits, duration_s)

    @abstractmethod
    def _fitted(self, watch_s: np.ndarray, duration_s: np.ndarray) -> dict[str, np.ndarray]: ...

    @abstractmethod
    def _losses(self, logits: Tensor, watch_s: Tensor, duration_s: Tensor) -> Tensor: ...
