"""Train the parts of a release again, with the settings that were evaluated, on all days of the log."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from watchnext.files import link
from watchnext.lifecycle.dvc_stages import run_stages
from watchnext.lifecycle.release_builder import REFIT

STAGES = ("features", "two_tower", "graph", "trending", "index", "ranker")
ALL_DAYS = ("data.split.valid_days=0", "data.split.test_days=0", "++data.split.gap_days=0")


def refit(root: Path, parameters: Mapping, overrides: Sequence[str] = ()) -> Path:
    """Run the training stages of dvc.yaml on all days, into `outputs`/refit, and return that folder.

    parameters  data, features and outputs, as in params.yaml
    overrides   of every command, those with which the evaluated parts were trained
    Epochs, rounds and weights are those of the models in `outputs`; unchanged days of the state are kept from the last refit.
    Raises subprocess.CalledProcessError where a stage fails.
    """
    outputs = Path(parameters["outputs"])
    folder = outputs / REFIT
    folder.mkdir(parents=True, exist_ok=True)
    link(folder, "tables", "../tables")
    own = [f"data.outputs={folder}", f"evaluated={outputs}", *ALL_DAYS]
    run_stages(root, {**parameters, "outputs": str(folder)}, [*overrides, *own], only=STAGES)
    return folder
