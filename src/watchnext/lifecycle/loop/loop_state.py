"""Keep the progress of a pass on disk, so that a killed one goes on."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from watchnext.files import replaced

FILE = "state.json"
STEPS = ("collect", "check", "decide", "train", "evaluate", "promote", "notify")


class LoopError(RuntimeError):
    """A pass that cannot go on; the message names the next command."""


@dataclass
class LoopState:
    """Knowledge of the loop between two steps.

    number     of the pass
    step       the step that comes next; "" between two passes
    stages     stages of the training that are complete, with their seconds of processor time
    position   of the journal, from which events may belong to days that are not collected
    latest_ms  latest time that a pass saw
    train_s    seconds of processor time of the last whole training
    trained_to the newest day of the log that it saw
    candidate  release that is tried on live traffic, "" without one
    rejected   trainings in a row whose release was not let serve
    report     what the steps of this pass found
    """

    number: int = 0
    step: str = ""
    stages: dict[str, float] = field(default_factory=dict)
    position: int = 0
    latest_ms: int = 0
    train_s: float | None = None
    trained_to: str = ""
    candidate: str = ""
    rejected: int = 0
    report: dict = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> "LoopState":
        """Read the state; a new one where there is none. Raises LoopError for a damaged file."""
        path = Path(folder) / FILE
        if not path.exists():
            return cls()
        try:
            state = cls(**json.loads(path.read_text()))
        except (ValueError, TypeError) as error:
            raise LoopError(f"{path} is no state of the loop ({error}); remove it: the next pass begins anew") from error
        if state.step not in ("", *STEPS):
            raise LoopError(f"{path} is at step {state.step!r}, expected one of {', '.join(STEPS)}; remove it to begin anew")
        return state

    def save(self, folder: Path) -> None:
        replaced(Path(folder) / FILE, json.dumps(asdict(self), indent=1))
