"""Render a comparison as text."""

from collections.abc import Iterator, Mapping

from watchnext.metrics import aligned, shown

FORM = "+.4f"


def comparison_table(report: Mapping) -> str:
    """Render the figures of two recommenders, their differences with intervals and floors, and the rules that they break."""
    one, other = report["release"], report["other"]
    lines = [f"{one} beside {other}: {report['requests']} requests, regime {report['regime']}; intervals over viewers"]
    if "slots" in report:
        lines.append(
            f"the incumbent filled {report['slots']:.1f} slots a request, {report['unknown']:.1%} of them with unknown videos; "
            "recall is of what it showed, which favours it"
        )
    if "floor" in report:
        missing = (
            "" if "retraining" in report["floor"] else "; training with another seed may move more: name such a release third"
        )
        lines.append(f"floor: what {' and '.join(report['floor'])} alone may move{missing}")
    lines += ["slates", *_figures(report["slate"], one, other)]
    if "order" in report:
        lines += ["the incumbent's videos in two orders", *_figures(report["order"], one, other)]
    for target, figures in report.get("ranking", {}).items():
        lines += [f"ranking of impressions: {target}", *_figures(figures, one, other)]
    whole = [
        ["all slates", one, other],
        *([name, *(shown(each, ".4f") for each in pair)] for name, pair in report["whole"].items()),
    ]
    broken = [f"{name} {count}" for name, count in report["broken"][0].items() if count]
    return "\n".join([*lines, *aligned(whole), f"rules broken by {one}: {', '.join(broken) or 'none'}"])


def _figures(figures: Mapping[str, Mapping], one: str, other: str) -> list[str]:
    return aligned([["", one, other, "difference", "95%", "floor", "verdict"], *_rows(figures)])


def _rows(figures: Mapping[str, Mapping]) -> Iterator[list[str]]:
    for name, each in figures.items():
        means = (shown(each[side]["mean"], ".4f") for side in ("mean", "other"))
        ends = f"[{shown(each['low'], FORM)}, {shown(each['high'], FORM)}]"
        yield [name, *means, shown(each["difference"], FORM), ends, shown(each["floor"], ".4f"), each["verdict"]]
