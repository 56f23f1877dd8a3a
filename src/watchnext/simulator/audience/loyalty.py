"""The law of leaving and coming back. Logs are drawn without it; only closed loops have it.

A viewer's satisfaction is a running mean of how far the share of long views of a slate lies above what the viewer expects: what
a uniform draw of videos would give, and a margin. Each day the viewer comes with a chance that grows with the satisfaction
(return as a function of earlier satisfaction: Wu et al., "Returning is Believing", CIKM 2017; here per day and logistic, not a
survival time). Repetition wears out: every examined impression of a tag makes the next one of the tag less appealing, and the
effect decays (rebounding bandits: Leqi et al., NeurIPS 2021; here continuous in time and additive in the log odds). The
strengths are chosen numbers, as no log tells them.
"""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Loyalty:
    """Parameters of leaving, coming back and burning out.

    chance     of coming on a day, at satisfaction 0, as of the first day; a viewer who comes has sessions as in the log
    pull       log odds of that chance per unit of satisfaction; 0: nobody leaves
    margin     share of long views beyond that of a uniform draw which leaves the satisfaction at 0
    memory     weight of the latest slate in the satisfaction
    satiation  log odds that a video loses per recent examined impression of its main tag; 0: repetition does not wear out
    rest_h     hours after which half of the recent impressions is forgotten
    """

    chance: float = 0.8
    pull: float = 8.0
    margin: float = 0.1
    memory: float = 0.2
    satiation: float = 0.05
    rest_h: float = 48.0

    def __post_init__(self) -> None:
        if not (0 < self.chance < 1 and 0 < self.memory <= 1 and self.rest_h > 0 and min(self.pull, self.satiation) >= 0):
            raise ValueError(
                f"{self}: expected chance within (0, 1), memory within (0, 1], rest_h above 0, and pull and satiation of at "
                "least 0"
            )

    @property
    def log_odds(self) -> float:
        return math.log(self.chance / (1.0 - self.chance))

    def chances(self, satisfaction: np.ndarray) -> np.ndarray:
        """Return the chance (U,) of coming on a day."""
        return 1.0 / (1.0 + np.exp(-(self.log_odds + self.pull * satisfaction)))

    def rested(self, hours: float) -> float:
        """Return the share of recent impressions that is left after a time."""
        return 0.5 ** (hours / self.rest_h)
