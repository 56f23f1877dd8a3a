"""The reference sample of a release: inputs of held-out requests, and what its networks made of them when it was built."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from watchnext.features.arrays import load_arrays, save_arrays
from watchnext.ranking.calibration.calibration import Calibration
from watchnext.serving.release.compiled import CompiledNetwork, CompiledRanker
from watchnext.serving.release.manifest import REPAIR, ReleaseError

SAMPLE = "sample"
OUTPUTS = "output_"  # prefix of the outputs, which no input has
APART = 0.01  # most that an output may differ, of a probability or of a value that is larger than 1


def write_sample(release: Path, batches: Sequence[Mapping[str, np.ndarray]]) -> None:
    """Write `sample`/<n>/ for each of `batches`: inputs (1, ...) of a viewer with those (C, ...) of candidates, and outputs."""
    networks = _networks(release)
    for number, inputs in enumerate(batches):
        outputs = {f"{OUTPUTS}{name}": network(inputs) for name, network in networks.items()}
        save_arrays(release / SAMPLE / str(number), {**inputs, **outputs})


def require_reproduced(release) -> None:
    """Compute the sample of a loaded release again. Raises ReleaseError naming the network whose output differs.

    A release of an earlier version has no sample; its checksums are all that is known of it.
    """
    networks = {"query_tower": release.query_tower}
    if release.ranker is not None:
        networks["ranker"] = lambda inputs: release.calibration(release.ranker(inputs))
    for folder in sorted((release.folder / SAMPLE).glob("*")):
        arrays = load_arrays(folder)
        inputs = {name: values for name, values in arrays.items() if not name.startswith(OUTPUTS)}
        for name, network in networks.items():
            expected, actual = arrays[f"{OUTPUTS}{name}"], network(inputs)
            if expected.shape != actual.shape or not np.allclose(actual, expected, rtol=APART, atol=APART, equal_nan=True):
                raise ReleaseError(
                    f"{release.folder}: {name} does not reproduce {folder.name} of its reference sample on this machine; "
                    f"run `{REPAIR}` here"
                )


def _networks(release: Path) -> dict:
    networks = {"query_tower": CompiledNetwork(release / "graphs" / "query_tower.xml", many=True)}
    if (release / "graphs" / "ranker.xml").exists():
        ranker, calibration = CompiledRanker.load(release / "graphs"), Calibration.load(release / "calibration")
        networks["ranker"] = lambda inputs: calibration(ranker(inputs))
    return networks
