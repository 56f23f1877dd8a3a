"""Render the report as text. "–" is undefined, such as the recall of an empty slice."""

import textwrap
from collections.abc import Iterator, Mapping
from itertools import zip_longest

from watchnext.evaluation.report.losses import REASONS
from watchnext.metrics import aligned, shown

HEADING_WIDTH = 8  # characters
TITLES = {"sources": "source", "floors": "baseline"}  # `floors` is the key of the baselines in the JSON report


def table(report: Mapping) -> str:
    """Render the funnel, where watched videos are lost, the slate, retrieval, and ranking."""
    return "\n".join(
        [*_funnel(report), *_losses(report), *_slate(report["slate"]), *_retrieval(report["retrieval"]), *_ranking(report)]
    )


def selection_table(report: Mapping) -> str:
    """Render what was chosen on the validation days, and the slate beside the baselines."""
    if not report["requests"]:
        return "no validation request is followed by a watch: settings stay as configured"
    weights = ", ".join(f"{name} {weight:g}" for name, weight in report["weights"].items() if weight)
    merges = [["merge", "recall"], *([name, shown(recall, ".4f")] for name, recall in report["merge"].items())]
    depths = [*report["slate"]["slate"]]
    orders = [["order", *depths], *([name, *_cells(entry, depths)] for name, entry in report["orders"].items())]
    slate = [["", *depths, *(f"slate's gain {depth}" for depth in depths)]]
    for name, entry in report["slate"].items():
        gains = entry.get("gain", {})
        spans = ("{:+.4f} [{}, {}]".format(mean, shown(low, "+.4f"), shown(high, "+.4f")) for mean, low, high in gains.values())
        slate.append([name, *_cells(entry, depths), *spans, *[""] * (len(depths) - len(gains))])
    verdict = behind(report["verdict"])
    left_out = ", ".join(report.get("left_out", ()))
    chosen = f"the list of {report['source']}" if report["source"] else f"value x engage^{report['engage']:g}"
    return "\n".join([
        *([f"the same in every training row, so without a weight in the value: {left_out}"] if left_out else []),
        f"{report['requests']} requests of the validation days; weights of the merge: {weights}",
        *aligned(merges), *aligned(orders), f"order: {chosen}; diversity: trade-off {report['trade_off']:g}", *aligned(slate),
        f"the slate loses to {verdict}" if verdict else "the slate loses to no baseline",
    ])  # fmt: skip


def behind(verdict: Mapping[str, str]) -> str:
    """Name the baselines (name > depths of recall) to which a slate loses; "" for none."""
    return ", ".join(f"{name} at {depths}" for name, depths in verdict.items())


def _cells(entry: Mapping, depths: list[str]) -> Iterator[str]:
    return (shown(entry[depth], ".4f") for depth in depths)


def _funnel(report: Mapping) -> Iterator[str]:
    depths = sorted({int(name.partition("@")[2]) for stage in report["funnel"].values() for name in stage if "@" in name})
    yield f"regime {report['regime']}, {report['requests']} requests; recall@K of long views later that day"
    rows = [["stage", *(f"@{k}" for k in depths), "coverage"]]
    for name, stage in report["funnel"].items():
        recalls = (shown(stage[f"recall@{k}"], ".4f") if f"recall@{k}" in stage else "" for k in depths)
        rows.append([name, *recalls, shown(stage["coverage"], ".3f")])
    yield from aligned(rows)
    shares = {name: value for name, value in report["lost"].items() if name != "shown"}
    parts = ", ".join(f"{name} {shown(value, '.1%')}" for name, value in shares.items())
    yield f"long views lost at {parts}; in the slate {shown(report['lost']['shown'], '.1%')}"


def _losses(report: Mapping) -> Iterator[str]:
    if not report["losses"]:
        return
    yield "where videos watched later that day end; of all watches of the slice"
    rows = [["", *line] for line in _headings(["watches", *REASONS])]
    for part, values in report["losses"]["slices"].items():
        for value, each in values.items():
            name = value if part == "outcome" else f"{part}: {value}"
            shares = (shown(each[reason], ".1%") for reason in REASONS)
            rows += [[name.replace("_", " "), f"{each['watches']:,}", *shares]] if each["watches"] else []
    yield from aligned(rows)


def _slate(slate: Mapping) -> Iterator[str]:
    if not slate:
        return
    yield f"the slate of {slate['k']}; relevant are long views later that day; 95% intervals over viewers"
    figures = (
        [name, shown(each["mean"], ".4f"), f"[{shown(each['low'], '.4f')}, {shown(each['high'], '.4f')}]"]
        for name, each in slate["figures"].items()
    )
    yield from aligned([*figures, *([name, shown(value, ".4f"), ""] for name, value in slate["whole"].items())])
    broken = ", ".join(f"{name} {count}" for name, count in slate["broken"].items() if count)
    yield f"  rules broken: {broken or 'none'}"
    lost = ", ".join(f"{name} {cost:.4f}" for name, cost in slate["costs"].items() if cost)
    yield f"  value that a slate loses: {lost or 'none'}"


def named_lists(retrieval: Mapping) -> dict[str, Mapping]:
    """Return name > figures of every list in the report."""
    lists = {name: retrieval[name] for name in ("merged", "served", "slate")}
    for part in ("sources", "floors"):
        lists |= {_title(f"{part}/{name}"): entry for name, entry in retrieval[part].items()}
    return lists


def _title(path: str) -> str:
    """Title a list: "floors/popular" is "baseline: popular"."""
    part, _, name = path.partition("/")
    return f"{TITLES[part]}: {name}"


def depths_of(retrieval: Mapping) -> list[str]:
    """Return the keys of recall in order of depth: "recall@100", "recall@500"."""
    return sorted((name for name in retrieval["merged"] if name.startswith("recall@")), key=lambda name: int(name[7:]))


def _retrieval(retrieval: Mapping) -> Iterator[str]:
    if not retrieval:
        return
    depths = depths_of(retrieval)
    slices = [(part, value) for part, values in retrieval["relevant"].items() for value in values]
    columns = [(depth, "outcome", "watched") for depth in depths[:-1]] + [(depths[-1], *each) for each in slices]
    yield f"retrieval of videos watched (more than 0 s) later that day; {depths[-1]} by outcome, video age and activity"
    titles = [f"{depth[6:]} {value.replace('_', ' ')}" if part == "outcome" else value for depth, part, value in columns]
    rows = [["", *line] for line in _headings([*titles, "coverage", "gini", "lift"])]
    rows.append(["videos watched", *(f"{retrieval['relevant'][part][value]:,}" for _, part, value in columns), "", "", ""])
    for name, entry in named_lists(retrieval).items():
        bias = (shown(entry[key], ".3f") for key in ("coverage", "gini", "popularity_lift"))
        rows.append([name, *(_recall(entry, *column) for column in columns), *bias])
    yield from aligned(rows)
    yield "  served and slate: recall of all their {:.0f} and {:.0f} videos".format(
        *(retrieval[name]["candidates"] for name in ("served", "slate"))
    )
    for depth, gain in retrieval["gain"].items():
        if gain:
            yield (
                f"  {depth} of merged minus that of {_title(gain['over'])}: "
                f"{gain['mean']:+.4f}, 95% {shown(gain['low'], '+.4f')} to {shown(gain['high'], '+.4f')}"
            )


def _headings(titles: list[str]) -> Iterator[tuple[str, ...]]:
    """Wrap titles into heading lines, one cell a title."""
    return zip_longest(*(textwrap.wrap(title, HEADING_WIDTH) for title in titles), fillvalue="")


def _recall(entry: Mapping, depth: str, part: str, value: str) -> str:
    """Return the recall at a depth; a list without depths has only one recall."""
    recall = entry.get(depth) or entry.get("recall")
    return shown(recall[part][value], ".4f")


def _ranking(report: Mapping) -> Iterator[str]:
    for regime, targets in report["ranking"].items():
        yield f"ranking of {report['impressions']} test impressions, regime {regime}"
        width = max(map(len, targets))
        for target, figures in targets.items():
            values = (f"{name} {shown(value, '.4f')}" for name, value in figures.items() if "_request" not in name)
            yield f"  {target:<{width}}  " + "  ".join(values)
    yield from _requests(report["ranking"].get("request", {}))


def _requests(targets: Mapping) -> Iterator[str]:
    """Render the order inside request groups, every mean under both weights."""
    heads = {name: figures for name, figures in targets.items() if "groups_request" in figures}
    if not heads:
        return
    yield "order inside requests or sessions with both labels, scored as of the first impression"
    names = [f"{name}_request{suffix}" for name in ("gauc", "ndcg@5", "mrr") for suffix in ("", "_by_impressions")]
    titles = [title for name in ("GAUC", "nDCG@5", "MRR") for title in (name, "by impressions")]
    rows = [["weight: positives", "groups", *titles]]
    for target, figures in heads.items():
        rows.append([target, str(figures["groups_request"]), *(shown(figures[name], ".4f") for name in names)])
    yield from aligned(rows)
