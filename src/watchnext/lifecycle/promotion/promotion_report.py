"""Render a decision as Markdown and as HTML, from one list of tables."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape

from watchnext.metrics import shown

Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]  # title, head, rows
STYLE = (
    "body{font:14px/1.5 system-ui,sans-serif;color:#1d2129;max-width:980px;margin:24px auto;padding:0 16px}"
    "table{border-collapse:collapse;margin-bottom:18px}"
    "td,th{padding:3px 14px 3px 0;border-bottom:1px solid #e4e6ea;text-align:left}"
    "th{color:#5b6270}h2{font-size:16px}.broken{color:#b3261e;font-weight:600}"
)


def tables_of(report: Mapping) -> Iterator[Table]:
    """Yield the tables of a report of `promotion.json`: live traffic, guards, figures of slates and of slices."""
    if live := report.get("live"):
        value, low, high = (shown(each, "+.2%") for each in live["relative"])
        row = [live["source"], *(f"{count:,}" for count in live["viewers"]), f"{live['requests']:,}"]
        head = [
            "source",
            "viewers of the candidate",
            "of the champion",
            "requests",
            "seconds",
            "always valid",
        ]
        yield "Live traffic", head, [[*row, value, f"[{low}, {high}]: {live['verdict']}"]]
    if guards := report.get("guards"):
        rows = [
            [each["name"], shown(each["candidate"], ".4g"), shown(each["champion"], ".4g"), each["limit"],
             "broken" if each["broken"] else "kept"] for each in guards
        ]  # fmt: skip
        yield "Guards", ["guard", "candidate", "champion", "limit", ""], rows
    for title, figures in (("Slates, replayed", report.get("slate", {})), ("Slices", report.get("slices", {}))):
        if figures:
            head = ["", "candidate", "champion", "difference", "95%", "noise floor", "verdict"]
            yield title, head, [_row(name, each) for name, each in figures.items()]


def _row(name: str, each: Mapping) -> list[str]:
    means = [shown(each[side]["mean"], ".4f") for side in ("mean", "other")]
    ends = f"[{shown(each['low'], '+.4f')}, {shown(each['high'], '+.4f')}]"
    return [name, *means, shown(each["difference"], "+.4f"), ends, shown(each["floor"], ".4f"), each["verdict"]]


def _title(report: Mapping) -> str:
    return f"{report['candidate']}: {report['verdict']}"


def _about(report: Mapping) -> list[str]:
    lines = [f"Champion: {report['champion'] or 'none'}.", f"Reason: {report['reason']}."]
    if replayed := report.get("replayed"):
        lines.append(f"Replayed on the test days, {report['requests']:,} requests: {replayed[0]} beside {replayed[1]}.")
    return lines


def markdown(report: Mapping) -> str:
    """Render a report as Markdown."""
    lines = [f"# {_title(report)}", ""]
    for line in _about(report):
        lines += [line, ""]
    for title, head, rows in tables_of(report):
        lines += [f"## {title}", "", _line(head), _line(["---"] * len(head)), *(_line(row) for row in rows), ""]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def page(report: Mapping) -> str:
    """Render a report as an HTML page without scripts or other files."""
    title = escape(_title(report))
    parts = [f"<!doctype html><meta charset=utf-8><title>{title}</title><style>{STYLE}</style><h1>{title}</h1>"]
    parts += [f"<p>{escape(line)}</p>" for line in _about(report)]
    for name, head, rows in tables_of(report):
        heads = "".join(f"<th>{escape(each)}</th>" for each in head)
        parts.append(f"<h2>{escape(name)}</h2><table><tr>{heads}</tr>{''.join(map(_cells, rows))}</table>")
    return "".join(parts) + "\n"


def _cells(row: Sequence[str]) -> str:
    kind = ' class="broken"' if row[-1] in ("broken", "lower") else ""
    return f"<tr{kind}>{''.join(f'<td>{escape(each)}</td>' for each in row)}</tr>"
