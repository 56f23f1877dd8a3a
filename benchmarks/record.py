"""Run a benchmark and keep its figures: `python -m benchmarks.record [--label LABEL] NAME [ARGUMENT ...]`.

Streams `python -m benchmarks.NAME ARGUMENT ...` and writes the JSON object of its last line to
benchmarks/results/NAME[-LABEL].json, with the command, the machine, the date, the commit and the seconds taken. `make docs`
renders the documentation from these files. Records hold no path of this machine: keep it in a variable whose name ends in
_ROOT, _FILE or _PYTHON, and the recorded command shows the variable.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
PRIVATE = re.compile(r"_(ROOT|FILE|PYTHON)$")
MACHINE_PATH = re.compile(r"(^|=)(/|~|\.\.)")
SHOWN_VARIABLES = ("ONEDNN_MAX_CPU_ISA", "OMP_NUM_THREADS")  # they change the measurement
MEASURED = ("src", "benchmarks", "conf", "data", "train.py", "dvc.yaml", "params.yaml")
SHOWN_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "amx_bf16")


class PrivatePathError(ValueError):
    """An argument names a path of this machine that no variable holds."""


def shown(word: str, variables: Mapping[str, str]) -> str:
    """Replace the paths in an argument by their variables. Raises PrivatePathError for a remaining path."""
    for name, value in variables.items():
        if value and PRIVATE.search(name):
            word = word.replace(value, f"${name}")
    if MACHINE_PATH.search(word):
        raise PrivatePathError(
            f"the argument {word!r} is a path of this machine, expected a variable that ends in _ROOT, _FILE or _PYTHON; "
            f"run `export LOG_ROOT={word.rpartition('=')[2]}` and give $LOG_ROOT"
        )
    return word


def command_of(name: str, arguments: Sequence[str], variables: Mapping[str, str]) -> str:
    """Return the command as documentation shows it."""
    settings = [f"{key}={variables[key]}" for key in SHOWN_VARIABLES if key in variables]
    words = ["python", "-m", f"benchmarks.{name}", *(shown(word, variables) for word in arguments)]
    return " ".join([*settings, *words])


def machine() -> dict[str, object]:
    """Describe processor, usable cores, instruction sets that change speed, and memory."""
    facts = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
    facts = {key.strip(): value.strip() for key, value in facts.items()}
    flags = facts.get("flags", "").split()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": facts.get("model name", "unknown"),
        "cores": len(os.sched_getaffinity(0)),
        "flags": [flag for flag in SHOWN_FLAGS if flag in flags],
        "memory_gb": round(memory),
    }


def commit() -> str:
    """Return the checked-out commit, with a plus if code or data differ from it."""
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", *MEASURED, ":!benchmarks/results")
    return _git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], capture_output=True, text=True, check=True).stdout.strip()


def last_line(name: str, arguments: Sequence[str]) -> str:
    """Run the benchmark and return its last line. Exits with its status if it fails."""
    return last_line_of([sys.executable, "-m", f"benchmarks.{name}", *arguments])


def last_line_of(words: Sequence[str]) -> str:
    """Run a program, show what it prints, and return its last line with text. Exits with its status if it fails."""
    line = ""
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as running:
        for printed in running.stdout:
            print(printed, end="", flush=True)
            line = printed.strip() or line
    if running.returncode:
        sys.exit(running.returncode)
    return line


def record(name: str, arguments: Sequence[str], *, label: str | None, results: Path = RESULTS) -> Path:
    """Run one benchmark and write its record. Raises PrivatePathError before anything runs."""
    command, made_by = command_of(name, arguments, os.environ), commit()
    began = time.perf_counter()
    line = last_line(name, arguments)
    seconds = time.perf_counter() - began
    try:
        figures = json.loads(line)
    except json.JSONDecodeError:
        sys.exit(f"the last line of benchmarks.{name} is {line[:200]!r}, expected one JSON object")
    report = {
        "command": command,
        "machine": machine(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "commit": made_by,
        "watchnext": version("watchnext"),
        "seconds": round(seconds, 1),
        "figures": figures,
    }
    results.mkdir(parents=True, exist_ok=True)
    path = results / f"{'-'.join(filter(None, (name.rpartition('.')[2], label)))}.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    return path


def benchmarks() -> list[str]:
    """Return the dotted names of the benchmarks."""
    folder = Path(__file__).parent
    paths = [path.relative_to(folder).with_suffix("") for at in ("", "whole") for path in (folder / at).glob("[a-z]*.py")]
    return sorted(".".join(path.parts) for path in paths if path.name not in ("record", "rectools_sasrec"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--label", help="distinguishes runs of one benchmark: NAME-LABEL.json")
    parser.add_argument("name", choices=benchmarks(), metavar="NAME", help=", ".join(benchmarks()))
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    try:
        print(record(options.name, options.arguments, label=options.label))
    except PrivatePathError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
