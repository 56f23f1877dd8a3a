"""`python -m watchnext.lifecycle release | promote | pipeline`."""

import json
import subprocess
import sys
from pathlib import Path

from omegaconf import DictConfig

from watchnext import tracking
from watchnext.cli import dispatch, optioned, plain
from watchnext.lifecycle import pipeline as stages
from watchnext.lifecycle.promote import enter, model_name, promote, serving_id
from watchnext.schema import SchemaError
from watchnext.serving.release.release import ReleaseError


def release(config: DictConfig) -> None:
    """Assemble a release from the trained parts and register it as challenger; the first one serves at once."""
    from watchnext.features.dataset.batches import FeatureSet
    from watchnext.lifecycle.build import ReleaseBuilder

    outputs = Path(config.data.outputs)
    features = FeatureSet.load(outputs / "features")
    builder = ReleaseBuilder(
        data=config.data.name,
        features=features,
        outputs=outputs,
        releases=Path(config.data.releases),
        clock=config.data.clock,
        reranking=plain(config.reranking),
        retrieval=plain(config.retrieval),
    )
    report = features.report
    tags = {"data_hash": report["data_hash"], "schema_fingerprint": report["schema"], "regime": report["regime"]}
    with tracking.start_run("release", config=plain(config), tags=tags) as run:
        found = json.loads((outputs / "ranker" / "metrics.json").read_text())
        built = builder.build()
        serves = enter(
            built.folder,
            new=built.new,
            data=config.data.name,
            run=run,
            metrics={name: found[name] for name in sorted(found) if "test/" in name},
        )
        run.log_metrics({f"agreement/{name}": value for name, value in built.agreement.items()})
    (outputs / "release.json").write_text(json.dumps({"release": built.folder.name}, indent=1))
    how = f"`python -m watchnext.lifecycle promote data={config.data.name}` lets it serve"
    print(f"{built.folder}: {'serves' if serves else f'challenger; {how}'}")


def promoted(config: DictConfig) -> None:
    """Let the challenger serve (or release=ID): switches releases/current and the registry's champion."""
    name = model_name(config.data.name)
    chosen = config.release or tracking.challenger(name=name)
    if chosen is None:
        raise LookupError(f"there is no challenger of {name!r}; name one with release=ID, or run `dvc repro`")
    before = serving_id(Path(config.data.releases))
    promote(Path(config.data.releases), chosen, data=config.data.name)
    print(f"{chosen} serves now, {before or 'nothing'} did before; a running server takes it up when restarted")


def pipeline(config: DictConfig) -> None:
    """Run every stage of dvc.yaml on other data, outside DVC: data=kuairand. Other key=value go to every stage."""
    chosen = {"data": config.data.name, "features": config.data.features, "outputs": config.data.outputs}
    given = [word for word in optioned(sys.argv[2:]) if not word.startswith("data=")]
    stages.run(Path.cwd(), chosen, given)


COMMANDS = {"release": release, "promote": promoted, "pipeline": pipeline}
ERRORS = (SchemaError, ReleaseError, ValueError, FileNotFoundError, LookupError, subprocess.CalledProcessError)

if __name__ == "__main__":
    dispatch("watchnext.lifecycle", COMMANDS, ERRORS)
