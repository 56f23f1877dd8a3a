"""The arms of the demo: what each does between two days, beside answering its viewers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from watchnext.lifecycle.loop.loop_state import LoopError


@dataclass(frozen=True, kw_only=True)
class DemoArm:
    """An arm.

    hears       False: its store learns nothing after the first release, neither counters, histories nor new videos
    is_shifted  False: it lives in the same world without the shift and the wave, as a yardstick
    every_days  days between two passes of the loop; None runs none
    costs       settings of `Costs` in place of those of the configuration
    """

    says: str
    hears: bool = True
    is_shifted: bool = True
    every_days: int | None = None
    costs: Mapping[str, float] = field(default_factory=dict)


ALWAYS = {"decay": 0.0, "most_days": 1}  # trains at every pass that has a new day
YARDSTICK = "undisturbed"
ARMS = {
    "frozen": DemoArm(says="never retrained, and its state stays as it was released", hears=False),
    "streamed": DemoArm(says="never retrained, but its state hears every event and every new video, as a server's does"),
    "weekly": DemoArm(says="trains every seventh day", every_days=7, costs=ALWAYS),
    "daily": DemoArm(says="trains every day", every_days=1, costs=ALWAYS),
    "loop": DemoArm(says="runs `lifecycle run` every day, which decides whether to train", every_days=1),
}
STILL = DemoArm(says="streamed, in the same world without shift and wave", is_shifted=False)


def arms_named(names: Sequence[str]) -> dict[str, DemoArm]:
    """Return the arms by name, after the yardstick. Raises LoopError for an unknown name, none, or one that stands twice."""
    if unknown := [name for name in names if name not in ARMS]:
        raise LoopError(f"demo.arms has {unknown[0]!r}, expected some of {', '.join(ARMS)}")
    if not names or len(set(names)) < len(names):
        raise LoopError(f"demo.arms is {list(names)}, expected some of {', '.join(ARMS)}, each once")
    return {YARDSTICK: STILL, **{name: ARMS[name] for name in names}}
