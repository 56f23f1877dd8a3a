"""Verdicts of windows in a row: a file of lines, and the verdict that holds after them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from watchnext.files import replaced
from watchnext.monitoring.verdict.checked_window import DRIFT, NO_DATA, NONE, CheckedWindow

KEPT = 400  # windows in the file
FILE = "history.jsonl"


@dataclass(frozen=True)
class PastWindow:
    """One window: its own verdict, and the effect of each drifted check in units of what matters."""

    release: str
    start_ms: int
    end_ms: int
    verdict: str
    rows: int
    drifted: Mapping[str, float]

    @classmethod
    def of(cls, window: CheckedWindow, release: str, start_ms: int, end_ms: int) -> "PastWindow":
        sizes = {name: round(check.size, 3) for name, check in window.findings.items()}
        return cls(release, start_ms, end_ms, window.verdict, window.rows[1], sizes)


def held(verdicts: Sequence[PastWindow], *, in_a_row: int, margin: float) -> list[str]:
    """Return the verdict that holds after each window.

    It changes after `in_a_row` windows with the same other verdict, or at once where a check drifted by `margin` times what
    matters. A window without data is "no data" whatever held before, and the first one with data ends that.
    """
    standing, same, before, result = NO_DATA, 0, "", []
    for window in verdicts:
        same = same + 1 if window.verdict == before else 1
        before = window.verdict
        if same >= in_a_row or max(window.drifted.values(), default=0.0) >= margin:
            standing = window.verdict
        elif standing == NO_DATA and window.verdict == DRIFT:
            standing = NONE
        elif standing == NO_DATA:
            standing = window.verdict
        result.append(NO_DATA if window.verdict == NO_DATA else standing)
    return result


def holding(history: Sequence[PastWindow]) -> dict[str, float]:
    """Return the drifted checks of the last windows in a row with drift, with their largest effect in units of what matters."""
    sizes: dict[str, float] = {}
    for window in reversed(history):
        if window.verdict == DRIFT:
            sizes |= {name: max(size, sizes.get(name, 0.0)) for name, size in window.drifted.items()}
        elif sizes:
            break
    return dict(sorted(sizes.items(), key=lambda item: -item[1]))


def read_history(folder: Path) -> list[PastWindow]:
    """Read the windows of earlier runs, oldest first. Raises ValueError naming the line that is none."""
    path = Path(folder) / FILE
    windows = []
    for number, line in enumerate(path.read_text().splitlines() if path.exists() else [], 1):
        try:
            windows.append(PastWindow(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: line {number} is no window of drift ({error}); remove the line, or the file") from error
    return windows


def write_history(folder: Path, windows: Iterable[PastWindow]) -> None:
    """Replace the file in one step, oldest window first, by the last KEPT windows."""
    lines = [json.dumps(asdict(each)) for each in sorted(windows, key=lambda each: (each.start_ms, each.release))]
    folder.mkdir(parents=True, exist_ok=True)
    replaced(folder / FILE, "".join(f"{line}\n" for line in lines[-KEPT:]))
