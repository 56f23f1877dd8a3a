"""Write the evaluation as one HTML page that needs no other file: the verdict, where watches are lost, then all figures."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from watchnext.evaluation.report.bars import bar, stacked
from watchnext.evaluation.report.losses import REASONS, survivors
from watchnext.metrics import shown

COLOURS = dict(
    zip(
        REASONS,
        ("#5b6470", "#8b95a3", "#b9a27a", "#c98b3a", "#b4483c", "#6d8fb8", "#9a6fb0", "#c7a0d6", "#2f8f6b"),
        strict=True,
    )
)
FUNNEL, LONG = "#1f6fb4", "#d9722a"
STYLE = Path(__file__).with_suffix(".css")
FIGURES = {
    "recall": "share of the long views that follow which the slate shows",
    "ndcg": "the same, worth more the higher it stands",
    "map": "mean average precision",
    "mrr": "1 / rank of the first hit",
    "serendipity": "share of slots that are hits outside the popular list",
    "novelty_bits": "mean self-information of the videos shown",
    "intra_list_distance": "mean of 1 - cosine over pairs of a slate",
    "popularity_lift": "popularity of what is shown over what is watched, minus 1",
    "fresh": "share of videos uploaded in the last 24 hours",
    "duplicates": "slots that repeat a video or a copy",
}


def evaluation_page(report: Mapping, *, plot: bytes | None) -> str:
    """Render the report of `replay`; `plot` is the PNG of retrieval."""
    head = f"<title>Evaluation of {escape(report['release'])}</title><style>{STYLE.read_text()}</style>"
    meta = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    body = (
        "".join(_body(report, plot))
        if report["losses"]
        else "<p>No watch follows a traced request: there is nothing to measure.</p>"
    )
    return f'<!doctype html><html lang="en"><head>{meta}{head}</head><body>{_title(report)}{body}</body></html>\n'


def _title(report: Mapping) -> str:
    return (
        f"<h1>Evaluation of {escape(report['release'])}</h1>"
        f"<p class=soft>{report['requests']:,} requests of the held-out days, replayed through the code that serves; "
        f"state: {escape(report['regime'])}; {report['impressions']:,} impressions scored</p>"
    )


def _body(report: Mapping, plot: bytes | None) -> Iterable[str]:
    losses, slate = report["losses"], report["slate"]
    yield _verdict(report)
    yield _cards(report)
    yield _funnel(losses["slices"]["outcome"])
    yield _by_slice(losses["slices"])
    yield "<h2>By source</h2><p class=soft>Shares of all watches. Alone: no other source proposed it.</p>"
    parts = ("proposed", "beyond quota", "missed", "alone")
    yield _table(
        ["source", *parts], ([name, *(shown(each[part], ".1%") for part in parts)] for name, each in losses["sources"].items())
    )
    yield _rules(losses, slate)
    yield _slate(slate)
    yield _retrieval(plot)
    yield _ranking(report["ranking"])


def _verdict(report: Mapping) -> str:
    """Say how the slate stands beside the baselines, and where most watches are lost."""
    slate, shares = report["slate"], report["losses"]["slices"]["outcome"]["watched"]
    gains = slate["gain"]
    lost = [name for name, gain in gains.items() if gain["high"] is not None and gain["high"] < 0]
    open_ = [name for name, gain in gains.items() if gain["low"] is None or gain["low"] <= 0 <= (gain["high"] or 0)]
    beside = f"The slate loses to {', '.join(lost)}" if lost else "The slate loses to no baseline"
    beside += (
        f"; beside {', '.join(open_)} the difference is within noise."
        if open_
        else ", and beats all beyond the interval." * (not lost)
    )
    worst = sorted((name for name in REASONS if name != "shown"), key=lambda name: -(shares[name] or 0))[:2]
    where = " and ".join(f"{shown(shares[name], '.0%')} because {REASONS[name]}" for name in worst)
    broken = sum(slate["broken"].values())
    rules = f"{broken} slots break a rule." if broken else "No slot breaks a rule."
    bad = " bad" if lost or broken else ""
    losses = f"Of the videos watched later that day, most are lost: {where}."
    return f'<div class="verdict{bad}"><b>{escape(beside)}</b> {escape(losses)} {rules}</div>'


def _cards(report: Mapping) -> str:
    slate, k = report["slate"], report["slate"]["k"]
    figures = {f"{title} at {k}": slate["figures"][f"{name}@{k}"] for name, title in (("recall", "Recall"), ("ndcg", "nDCG"))}
    figures |= {name.replace("_", " "): slate["figures"][name] for name in ("serendipity", "popularity_lift")}
    cards = [_card(name, shown(each["mean"], ".3f"), _span(each, ".3f")) for name, each in figures.items()]
    gauc = report["gauc"]["long_view"]
    cards.append(_card("GAUC of long views", shown(gauc["mean"], ".3f"), _span(gauc, ".3f")))
    cards.append(_card("rules broken", str(sum(slate["broken"].values())), "counted apart from the re-ranker"))
    return f'<div class="cards">{"".join(cards)}</div>'


def _card(name: str, value: str, below: str) -> str:
    return f'<div class="card"><small>{escape(name)}</small><b>{value}</b><small>{escape(below)}</small></div>'


def _span(each: Mapping, form: str) -> str:
    return f"{shown(each['low'], form)} to {shown(each['high'], form)}"


def _funnel(outcomes: Mapping[str, Mapping]) -> str:
    steps, long = survivors(outcomes["watched"]), survivors(outcomes["long_view"])
    bars = {step: bar(share, FUNNEL, "watched") + bar(long[step], LONG, "viewed long") for step, share in steps.items()}
    rows = "".join(
        f'<div class="step"><span>{escape(step)}</span><span>{bars[step]}</span>'
        f"<span>{shown(share, '.1%')}</span><span>{shown(long[step], '.1%')}</span></div>"
        for step, share in steps.items()
    )
    key = _key({"watched later that day": FUNNEL, "viewed long": LONG})
    return f"<h2>How far watched videos get in the funnel</h2>{key}{rows}"


def _key(colours: Mapping[str, str]) -> str:
    return (
        '<div class="key">'
        + "".join(f'<span><i style="background:{colour}"></i>{escape(name)}</span>' for name, colour in colours.items())
        + "</div>"
    )


def _by_slice(slices: Mapping[str, Mapping[str, Mapping]]) -> str:
    """Draw where the watches of every slice end, with the shares below."""
    entries = {
        f"{'all' if part == 'outcome' else part}: {value}".replace("_", " "): each
        for part, values in slices.items()
        for value, each in values.items()
        if each["watches"]
    }
    bars = "".join(
        f'<div class="slice"><span>{escape(name)}</span><span>{each["watches"]:,}</span>'
        f"{stacked({reason: each[reason] for reason in REASONS}, COLOURS)}</div>"
        for name, each in entries.items()
    )
    table = _table(
        ["slice", *REASONS], ([name, *(shown(each[key], ".1%") for key in REASONS)] for name, each in entries.items())
    )
    listed = "".join(f"<dt><b>{escape(name)}</b> {escape(text)}</dt>" for name, text in REASONS.items())
    words = f"<details><summary>What each word means</summary><dl>{listed}</dl></details>"
    return f"<h2>Where watches are lost</h2>{_key(COLOURS)}{bars}{words}{table}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    lines = ("".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows)
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(f"<tr>{line}</tr>" for line in lines)}</table></div>'


def _rules(losses: Mapping, slate: Mapping) -> str:
    parts = ("barred", "filters", "cap")
    names = dict.fromkeys([*losses["rules"], *slate["broken"], *slate["bent"], *slate["costs"]])
    rows = (
        [
            name,
            *(shown(losses["rules"].get(name, {}).get(part, 0.0), ".1%") for part in parts),
            *(str(slate[part].get(name, "")) for part in ("broken", "bent")),
            shown(slate["costs"].get(name), ".4f"),
        ]
        for name in names
    )
    ranks = _table(["rank", "share of watches"], ([name, shown(share, ".1%")] for name, share in losses["ranks"].items()))
    return (
        "<h2>By rule</h2><p class=soft>Shares of all watches that a rule kept out; and slots of all slates that break it, "
        "or for which a soft rule bent, as the slate says.</p>"
        f"{_table(['rule', *parts, 'slots that break it', 'that bend it', 'value a slate loses'], rows)}"
        f"<h2>Ranked below the slate</h2>{ranks}"
    )


def _slate(slate: Mapping) -> str:
    rows = [
        [f"{name}, {FIGURES[name.partition('@')[0]]}", shown(each["mean"], ".4f"), _span(each, ".4f")]
        for name, each in slate["figures"].items()
    ]
    rows += [[f"{name}, all slates together", shown(value, ".4f"), ""] for name, value in slate["whole"].items()]
    gains = ([name, shown(each["mean"], "+.4f"), _span(each, "+.4f")] for name, each in slate["gain"].items())
    return (
        f"<h2>The slate</h2><p class=soft>95% intervals: bootstrap over viewers. Definitions: watchnext/metrics.py.</p>"
        f"{_table(['figure', 'mean', '95%'], rows)}<h2>Recall at {slate['k']} over that of the baselines</h2>"
        f"{_table(['baseline', 'gain', '95%'], gains)}"
    )


def _retrieval(plot: bytes | None) -> str:
    if plot is None:
        return ""
    return f'<h2>Retrieval</h2><img alt="recall of every source" src="data:image/png;base64,{base64.b64encode(plot).decode()}">'


def _ranking(ranking: Mapping[str, Mapping[str, Mapping]]) -> str:
    names = list(
        dict.fromkeys(
            name for targets in ranking.values() for figures in targets.values() for name in figures if "_request" not in name
        )
    )
    rows = (
        [f"{regime}: {target}", *(shown(figures.get(name), ".4f") for name in names)]
        for regime, targets in ranking.items()
        for target, figures in targets.items()
    )
    return f"<h2>Ranking of impressions, by freshness of the state</h2>{_table(['', *names], rows)}"
