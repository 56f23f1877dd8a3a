"""The result types of the leakage checks."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Leak:
    """One leak: the check, the feature, its figure, the threshold that it exceeds, and the remedy."""

    check: str
    feature: str
    figure: float
    threshold: float
    remedy: str

    def __str__(self) -> str:
        return f"leak ({self.check}): {self.feature}: {self.figure:g}, allowed is {self.threshold:g}; {self.remedy}"


CheckResult = tuple[dict, list[Leak]]
