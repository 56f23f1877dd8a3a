"""Render every printed figure from a run's JSON: `python -m benchmarks.rendering [--check | --missing]`, or `make docs`.

README.md and docs/*.md hold marked blocks, `<!-- results:NAME -->` to `<!-- /results -->`. The text between the marks is
written here, from outputs/metrics/*.json (the pipeline on the committed sample) and benchmarks/results/*.json (written by
`python -m benchmarks.record`): a table, its commands, machine, date, seed and regime. A figure without a record is listed as
not measured. `--check` exits 1 if a page differs from its rendering. `--missing` lists the commands whose records are absent,
the shortest first.
"""

import argparse
import re
import sys
from pathlib import Path

from benchmarks.rendering.blocks import BLOCKS, RECORDS, ROOT, Block, Records, command_of

MARKED = re.compile(r"<!-- results:(?P<name>\S+) -->\n.*?<!-- /results -->", re.DOTALL)


class RenderError(ValueError):
    """A marked block that nothing can fill, or a record without a figure that the block shows."""


def pages(root: Path = ROOT) -> list[Path]:
    return [root / "README.md", *sorted((root / "docs").glob("*.md"))]


def body_of(name: str, block: Block, records: Records) -> str:
    """Return the table, its origin and the absent records. Raises RenderError for a record that lacks a figure."""
    by_record = {record: records.of(record) for record in block.records}
    present = {record: each for record, each in by_record.items() if each is not None}
    try:
        table = block.made({record: each.figures for record, each in present.items()}) if present or block.always else ""
    except KeyError as error:
        raise RenderError(
            f"the block {name} shows {error}, which {', '.join(present)} lacks; run the benchmark again: "
            + "; ".join(command_of(record) for record in present)
        ) from error
    origins = dict.fromkeys(each.origin for each in present.values()) if table else {}
    origin = "; ".join([*origins, *([block.about] if origins and block.about else [])])
    absent = ", ".join(f"`{command_of(record)}`" for record, each in by_record.items() if each is None)
    unmeasured = f"Not measured on this commit: {absent}." if absent else ""
    footer = " ".join(filter(None, [origin and f"*{origin}*", unmeasured]))
    return "\n\n".join(filter(None, [table, footer])) or "No data in this run."


def rendered(text: str, records: Records) -> str:
    """Fill every block of a page. Raises RenderError naming an unknown block."""

    def filled(match: re.Match) -> str:
        name = match["name"]
        if name not in BLOCKS:
            raise RenderError(
                f"the block {name!r} has no source, expected one of {', '.join(BLOCKS)}; see benchmarks/rendering/blocks.py"
            )
        return f"<!-- results:{name} -->\n{body_of(name, BLOCKS[name], records)}\n<!-- /results -->"

    return MARKED.sub(filled, text)


def missing(records: Records) -> list[str]:
    return [command_of(name) for name in RECORDS if records.of(name) is None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--check", action="store_true", help="write nothing; exit 1 if a page is out of date")
    chosen.add_argument("--missing", action="store_true", help="list the commands whose records are absent")
    options = parser.parse_args()
    records = Records()
    if options.missing:
        print("\n".join(missing(records)) or "every record is there")
        return
    try:
        new = {page: rendered(page.read_text(), records) for page in pages()}
    except RenderError as error:
        sys.exit(str(error))
    changed = [page for page, text in new.items() if text != page.read_text()]
    for page in [] if options.check else changed:
        page.write_text(new[page])
    names = ", ".join(str(page.relative_to(ROOT)) for page in changed)
    if options.check and changed:
        sys.exit(f"{names} differ from their records; run `make docs`")
    print(f"rendered {names}" if changed else "every page is up to date")


if __name__ == "__main__":
    main()
