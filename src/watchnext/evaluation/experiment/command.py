"""`python -m watchnext.evaluation experiment`: compose the world, run the arms, and keep the report where the house keeps
reports."""

from pathlib import Path

from omegaconf import DictConfig

from watchnext import tracking
from watchnext.assignment import ExperimentError
from watchnext.cli import composed, instantiate, plain, write_report
from watchnext.evaluation.experiment.experiment import Experiment
from watchnext.evaluation.experiment.experiment_report import experiment_plot, experiment_table
from watchnext.evaluation.experiment.simulation import Simulation
from watchnext.features.dataset.batches import FeatureSet
from watchnext.metrics import flat, rounded
from watchnext.serving.release.release import Release, last_built


def world_of(config: DictConfig) -> tuple[str, object]:
    """Return the name and the world of an experiment: the data set's own, or that of `experiment.world` for the sample.

    Raises ExperimentError where that data set is not simulated.
    """
    data = config.data
    if not data.loader._target_.endswith(".World"):
        data = composed([f"data={config.experiment.world}"]).data
    if not data.loader._target_.endswith(".World"):
        raise ExperimentError(
            f"experiment.world is {data.name!r}, whose log is real: how viewers would answer is known of a simulated world "
            "alone; expected world, world_still or world_popular"
        )
    return data.name, instantiate(data.loader)


def run_experiment(config: DictConfig) -> None:
    """Run the experiment of a configuration; write its report and picture below the outputs, and print its table."""
    options, outputs = config.experiment, Path(config.data.outputs)
    release, (name, world) = Release.load(last_built(config.data.releases, outputs)), world_of(config)
    simulation = Simulation.of(world, loyalty=instantiate(options.loyalty), days=options.days, viewers=options.viewers)
    folder = outputs / "experiment" / options.design
    runner = Experiment(release, simulation, releases=config.data.releases, folder=folder / "arms", seed=config.seed)
    given = plain(options)
    report = {"world": name, **runner.run(design=options.design, policies=given["policies"], shares=given["shares"])}
    text, report = experiment_table(report), rounded(report, 6)
    experiment_plot(report["daily"], folder / "days.png")
    write_report(folder / "experiment.json", report)
    features = FeatureSet.load(outputs / "features").report
    tags = {"data_hash": features["data_hash"], "schema_fingerprint": features["schema"], "release": release.id}
    with tracking.start_run("experiment", config=plain(config), tags=tags, stage="evaluation") as tracked:
        tracked.log_metrics(flat(_values(report)))
        tracked.log_file(folder / "experiment.json")
        tracked.log_file(folder / "days.png")
    print(text)
    print(f"{folder}/experiment.json, {folder}/days.png")


def _values(report: dict) -> dict:
    """Return the figures of a report without the ends of their intervals."""
    first = lambda found: found[0] if isinstance(found, list) else found  # noqa: E731
    return {
        "arms": {arm: {name: first(each) for name, each in figures.items()} for arm, figures in report["arms"].items()},
        "differences": {
            pair: {name: first(each["relative"]) for name, each in figures.items()}
            for pair, figures in report["differences"].items()
        },
    }
