"""Time the tests: `python -m benchmarks.whole.suite [PYTEST ARGUMENT ...]`. The last line is one JSON object."""

import json
import re
import sys
import time

from benchmarks.record import last_line_of

OUTCOME = re.compile(r"(\d+) (passed|failed|skipped|error)")


def main() -> None:
    began = time.perf_counter()
    words = [sys.executable, "-m", "pytest", *(sys.argv[1:] or ["-n", "2"])]  # as `make test` does
    line = last_line_of(words)
    counts = {name: int(count) for count, name in OUTCOME.findall(line)}
    print(json.dumps({"seconds": round(time.perf_counter() - began, 1)} | counts))


if __name__ == "__main__":
    main()
