"""Time of the tests: `python -m benchmarks.whole.suite [PYTEST ARGUMENT ...]`. The last line is one JSON object."""

import json
import re
import subprocess
import sys
import time

OUTCOME = re.compile(r"(\d+) (passed|failed|skipped|error)")


def main() -> None:
    began, line = time.perf_counter(), ""
    words = [sys.executable, "-m", "pytest", *(sys.argv[1:] or ["-n", "2"])]  # as `make test` does
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as running:
        for printed in running.stdout:
            print(printed, end="", flush=True)
            line = printed.strip() or line
    if running.returncode:
        sys.exit(running.returncode)
    counts = {name: int(count) for count, name in OUTCOME.findall(line)}
    print(json.dumps({"seconds": round(time.perf_counter() - began, 1)} | counts))


if __name__ == "__main__":
    main()
