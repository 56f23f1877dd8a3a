"""What the tripwire finds."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Leak:
    """One finding: which check, which feature, its figure and the threshold it passed, and what to do."""

    check: str
    feature: str
    figure: float
    threshold: float
    what: str

    def __str__(self) -> str:
        return f"leak ({self.check}): {self.feature}: {self.figure:g}, allowed is {self.threshold:g}; {self.what}"


Findings = tuple[dict, list[Leak]]
