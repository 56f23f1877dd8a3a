"""Interface of watch-time heads: number of logits, loss, and expected seconds."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from watchnext.ranking.watch_time.duration_groups import checked
from watchnext.ranking.watch_time.expectation import seconds


class WatchTime(nn.Module, ABC):
    """Read `logits` columns of a network's output as watch time. Its only state are arrays fitted on training rows, kept as
    buffers, so that they are saved and exported with the network.

    kind    name of the formula in `expectation.SECONDS`
    logits  number of columns
    """

    kind: ClassVar[str]

    def __init__(self, *, logits: int, shapes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__()
        self.logits = logits
        for name, shape in shapes.items():
            self.register_buffer(name, torch.full(shape, float("nan")))

    def fit(self, watch_s: np.ndarray, duration_s: np.ndarray) -> None:
        """Fit the arrays on training rows: seconds (N,), and durations (N,), nan or 0 if unknown. Raises ValueError without
        rows, and for seconds that are negative or not finite."""
        self.load_arrays(self._fitted(*checked(watch_s, duration_s)))

    def load_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Load the result of `arrays`. Raises ValueError for a different name or shape."""
        expected = {name: tuple(buffer.shape) for name, buffer in self._arrays().items()}
        given = {name: np.shape(array) for name, array in arrays.items()}
        if expected != given:
            raise ValueError(
                f"{type(self).__name__} has arrays {given}, expected {expected}; fit it again with the current settings"
            )
        for name, buffer in self._arrays().items():
            buffer.copy_(torch.from_numpy(np.array(arrays[name], np.float32)))

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the fitted arrays, the complete input of `expectation.seconds(kind, arrays, ...)`."""
        return {name: buffer.cpu().numpy().copy() for name, buffer in self._arrays().items()}

    def _arrays(self) -> dict[str, Tensor]:
        return dict(self.named_buffers(recurse=False))

    def loss(self, logits: Tensor, watch_s: Tensor, duration_s: Tensor) -> Tensor:
        """Average `losses`. Raises RuntimeError before `fit`."""
        return self.losses(logits, watch_s, duration_s).mean()

    def losses(self, logits: Tensor, watch_s: Tensor, duration_s: Tensor) -> Tensor:
        """Compute row losses (N,) from `logits` (N, L), `watch_s` (N,), `duration_s` (N,), 0 if unknown; about 1 when
        untrained."""
        if logits.ndim != 2 or logits.shape[1] != self.logits:
            raise ValueError(f"{type(self).__name__} has logits of shape {tuple(logits.shape)}, expected (N, {self.logits})")
        if any(buffer.isnan().any() for buffer in self._arrays().values()):
            raise RuntimeError(f"{type(self).__name__} is not fitted; call fit(watch_s, duration_s) first")
        return self._losses(logits, watch_s, duration_s)

    def seconds(self, logits: Tensor, duration_s: Tensor) -> Tensor:
        """Compute expected seconds (N,) with tensor operations only, for export."""
        return seconds(self.kind, self._arrays(), logits, duration_s)

    @abstractmethod
    def _fitted(self, watch_s: np.ndarray, duration_s: np.ndarray) -> dict[str, np.ndarray]: ...

    @abstractmethod
    def _losses(self, logits: Tensor, watch_s: Tensor, duration_s: Tensor) -> Tensor: ...
