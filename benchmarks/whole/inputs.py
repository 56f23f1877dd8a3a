"""Measure permutation importance and learning curve of the ranker: `python -m benchmarks.whole.inputs`, after `dvc repro`.

Runs `python -m watchnext.ranking importance` on the trained ranker and `learning-curve model=dcn`. The last line is one JSON
object with both reports.
"""

import json
import subprocess
import sys
from pathlib import Path

COMMANDS = {"importance": ["importance"], "learning_curve": ["learning-curve", "model=dcn"]}


def main() -> None:
    reports = {}
    for name, words in COMMANDS.items():
        done = subprocess.run([sys.executable, "-m", "watchnext.ranking", *words], check=False)
        if done.returncode:
            sys.exit(done.returncode)
        reports[name] = json.loads(Path(f"outputs/reports/{name}.json").read_text())
    print(json.dumps(reports))


if __name__ == "__main__":
    main()
