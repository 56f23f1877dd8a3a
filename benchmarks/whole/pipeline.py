"""Time the whole pipeline on one log: `python -m benchmarks.whole.pipeline [data=NAME] [key=value ...]`.

Runs every stage of dvc.yaml, outside DVC, as `python -m watchnext.lifecycle pipeline` does. The last line is one JSON object:
the seconds of all stages, the release, and its `metrics`, except for the committed sample, whose metrics are in git.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

from watchnext.cli import composed


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
