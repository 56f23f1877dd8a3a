"""Single-logit heads without duration groups: log seconds and weighted odds."""

import numpy as np
from torch import Tensor
from torch.nn.functional import smooth_l1_loss, softplus

from watchnext.ranking.watch_time.head import WatchTime


class LogSeconds(WatchTime):
    """Huber loss on log1p seconds. The baseline: robust, ranks well, underestimates seconds."""

    kind = "log_seconds"

    def __init__(self) -> None:
        super().__init__(logits=1, shapes={})

    def _fitted(self, watch_s: np.ndarray, duration_s: np.ndarray) -> dict[str, np.ndarray]:
        return {}

    def _losses(self, logits: Tensor, watch_s: Tensor, duration_s: Tensor) -> Tensor:
        return smooth_l1_loss(logits[:, 0], watch_s.log1p(), reduction="none")


class WeightedOdds(WatchTime):
    """Weighted logistic regression, whose odds are the expected watch time (Covington et al., RecSys 2016).

    Deviations: every row is a negative of weight 1 and a positive weighted by its seconds, so that the odds are E[watch]; with
    only clicked rows as positives they would be E[watch] / (1 - P(click)). Seconds are in units of their mean, so that this
    loss does not dominate other heads.
    """

    kind = "weighted_odds"

    def __init__(self) -> None:
        super().__init__(logits=1, shapes={"scale": (1,)})

    def _fitted(self, watch_s: np.ndarray, duration_s: np.ndarray) -> dict[str, np.ndarray]:
        return {"scale": np.array([max(watch_s.mean(), 1e-3)])}

    def _losses(self, logits: Tensor, watch_s: Tensor, duration_s: Tensor) -> Tensor:
        weight = watch_s / self.scale
        return weight * softplus(-logits[:, 0]) + softplus(logits[:, 0])
