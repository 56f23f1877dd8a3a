"""Time the whole pipeline on one log: `python -m benchmarks.whole.pipeline [data=NAME] [key=value ...]`.

Runs every stage of dvc.yaml, outside DVC, as `python -m watchnext.lifecycle pipeline` does. The last line is one JSON object:
the seconds of all stages, the release, and its `metrics`, except for the committed sample, whose metrics are in git.
"""

import json
import resource
import runpy
import shlex
import subprocess
import sys
import time
import warnings
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from pathlib import Path

from watchnext.cli import composed
from watchnext.lifecycle.dvc_stages import stages

AFTERWARDS = ("tripwire", "evaluation", "store", "recommendations", "drift")  # stages without which there is a release


def build_release(
    data: str,
    features: str,
    outputs: Path,
    overrides: Sequence[str],
    *,
    without: Iterable[str] = AFTERWARDS,
    ranker: str = "ranker",
) -> None:
    """Run the stages of dvc.yaml in this process, which has their imports; what they print goes to stderr.

    `ranker` is the model that is trained as the ranker, perhaps with overrides of that stage. Exits with the status of a stage
    that fails.
    """
    parameters, words = {"data": data, "features": features, "outputs": str(outputs)}, sys.argv
    try:
        with redirect_stdout(sys.stderr):
            for name, command in stages(Path.cwd(), parameters).items():
                if name not in without:
                    print(f"{data}: {name}", flush=True)
                    began = time.perf_counter()
                    _run([*shlex.split(command.replace("model=ranker", f"model={ranker}"))[1:], *overrides])
                    print(f"{data}: {name} took {time.perf_counter() - began:.0f} s, {_peak_mb()} MB at most", flush=True)
    finally:
        sys.argv = words


def _peak_mb() -> int:
    """Return the largest resident size of this process so far, mapped files included."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def _run(words: Sequence[str]) -> None:
    as_module = words[0] == "-m"
    sys.argv = words[as_module:]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*found in sys.modules", category=RuntimeWarning)  # others import it too
        try:
            (runpy.run_module if as_module else runpy.run_path)(sys.argv[0], run_name="__main__")
        except SystemExit as end:
            if end.code:
                raise


def main() -> None:
    overrides = sys.argv[1:]
    config = composed(overrides)
    outputs = Path(config.data.outputs)
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "watchnext.lifecycle", "pipeline", *overrides], check=False)
    if done.returncode:
        sys.exit(done.returncode)
    result = {"data": config.data.name, "seed": config.seed, "seconds": round(time.perf_counter() - began, 1)}
    result |= json.loads((outputs / "release.json").read_text())
    if config.data.name != "sample":
        files = sorted((outputs / "metrics").glob("*.json"))
        result["metrics"] = {path.stem: json.loads(path.read_text()) for path in files}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
