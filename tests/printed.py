"""Commands that the documentation prints, as the words behind `python train.py`."""

import shlex
from pathlib import Path

TUTORIAL = Path(__file__).resolve().parents[1] / "docs" / "tutorial.md"


def variants() -> list[list[str]]:
    """Overrides of each command under "Variants"."""
    block = TUTORIAL.read_text().partition("### Variants")[2].partition("```\n")[2].partition("```")[0]
    lines = block.replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[2:] for line in lines]
