"""`python -m watchnext.lifecycle demo`: live through the days with every arm, and write the report."""

import json
import time
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from watchnext.cli import instantiate, plain, write_report
from watchnext.evaluation.experiment.arm_figures import ArmFigures
from watchnext.evaluation.experiment.simulation import Simulation
from watchnext.files import replaced
from watchnext.lifecycle.demo.arms import arms_named
from watchnext.lifecycle.demo.demo_figures import demo_figures
from watchnext.lifecycle.demo.demo_project import DemoProject
from watchnext.lifecycle.demo.demo_report import demo_page, demo_plot
from watchnext.lifecycle.demo.demo_run import DemoRun
from watchnext.lifecycle.loop.decision import Costs
from watchnext.lifecycle.loop.loop_state import LoopError
from watchnext.lifecycle.stage_process import Forks
from watchnext.metrics import rounded
from watchnext.serving.release.only_one import only_one


def run_demo(config: DictConfig) -> dict:
    """Run what is left of the demo of a configuration; return its report, which demo.json, demo.md and demo.png keep.

    Raises LoopError for less than a day, an unknown arm, and a folder of a demo with other settings.
    """
    options, folder = config.demo, Path(config.demo.folder).resolve()
    if options.days < 1:
        raise LoopError(f"demo.days is {options.days}, expected at least 1; run `python -m watchnext.lifecycle demo days=14`")
    arms = arms_named(options.arms)
    with only_one(folder / "lock", f"runs the demo in {folder}"):
        shifted, still = (_simulation(config, is_shifted=each) for each in (True, False))
        _require_same(config, folder)
        tell = _Teller()
        forks = Forks(folder / "stages.log", without=["MLFLOW_TRACKING_URI"])  # each arm has a registry of its own
        projects = {name: DemoProject(folder=folder / name, settings=plain(options.settings), start=forks)
                    for name in ("first", *arms)}  # fmt: skip
        tell("first release: training")
        projects["first"].make(still.log, source=Path.cwd(), model=options.model)
        watch_s, passes = {}, {}
        for name, arm in arms.items():
            simulation = shifted if arm.is_shifted else still
            projects[name].copy_of(projects["first"])
            costs = Costs.of({**plain(config.loop), **plain(options.costs), **arm.costs})
            settings = {"costs": costs, "serves": options.serves, "seed": config.seed}
            shown, found = DemoRun(name, arm, projects[name], simulation, **settings).run(tell)
            people = simulation.people(simulation.users)
            watch_s[name] = ArmFigures.of(shown, simulation, people).watch_s
            passes[name] = found
        figures = demo_figures(watch_s, passes, shift_day=options.shift.day, price=options.costs.price, seed=config.seed)
        report = rounded({"seed": config.seed, "figures": figures, "passes": passes}, 6)
        write_report(folder / "demo.json", report)
        replaced(folder / "demo.md", demo_page(report))
        demo_plot(report["figures"], folder / "demo.png")
    return report


def _simulation(config: DictConfig, *, is_shifted: bool) -> Simulation:
    options = config.demo
    shift = instantiate(options.shift) if is_shifted else None
    loyalty = instantiate(config.experiment.loyalty)
    return Simulation.of(instantiate(options.world), loyalty=loyalty, days=options.days, viewers=None, shift=shift)


def _require_same(config: DictConfig, folder: Path) -> None:
    """Keep the settings of the demo; raise LoopError where those in the folder differ, as its days are of other ones."""
    chosen = OmegaConf.create(plain(config.demo))
    settings = {name: value for name, value in plain(chosen).items() if name not in ("arms", "folder")}
    path, text = folder / "settings.json", json.dumps({"seed": config.seed, **settings}, indent=1)
    if not path.exists():
        replaced(path, text)
    elif path.read_text() != text:
        raise LoopError(f"{folder} has a demo of other settings ({path.name}); remove it, or give demo.folder=ANOTHER")


class _Teller:
    """Print what was done, with the minutes since the beginning."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def __call__(self, line: str) -> None:
        print(f"{(time.monotonic() - self._began) / 60:5.1f} min  {line}", flush=True)
