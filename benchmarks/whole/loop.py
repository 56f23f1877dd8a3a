"""Run the demo of the loop: `python -m benchmarks.whole.loop [key=value ...]`, as `python -m watchnext.lifecycle demo` does.

The last line is its report as one JSON object; a demo that was killed goes on.
"""

import json
import sys

from watchnext.cli import composed
from watchnext.lifecycle.demo.demo_command import run_demo


def main() -> None:
    print(json.dumps(run_demo(composed(sys.argv[1:]))))


if __name__ == "__main__":
    main()
