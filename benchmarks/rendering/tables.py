"""Figures of runs > a Markdown table. Functions take the figures of the existing records; no clock, no file but conf/."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import yaml

from watchnext.lifecycle.capacity import capacity_report, scaling_curves
from watchnext.lifecycle.capacity.stage_needs import scenarios_of
from watchnext.lifecycle.demo.demo_figures import verdicts
from watchnext.lifecycle.demo.demo_report import table_rows

Figures = Mapping[str, Mapping]  # record > its figures
BASELINES = {
    "video_rate": "the video's long-view rate",
    "decayed_video_rate": "the video's, of late",
    "creator_rate": "the creator's",
    "viewer_rate": "the viewer's",
    "popular_now": "popular now",
}
REGIMES = ("frozen", "daily", "streaming", "request")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table, or nothing without rows."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([f"| {' | '.join(head)} |", "|---" * len(head) + "|", *lines]) if lines else ""


def number(value: float | None, digits: int = 4) -> str:
    """Format a figure with `digits` after the point, without a leading zero; a dash for none."""
    if value is None or value != value:
        return "–"
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    text = f"{value:.{digits}f}"
    return text.replace("0.", ".", 1) if abs(value) < 1 and digits else text


def spread(values: Sequence[float], digits: int = 4) -> str:
    """Format mean and standard deviation over repetitions."""
    mean = number(float(np.mean(values)), digits)
    return f"{mean} ± {number(float(np.std(values, ddof=1)), digits)}" if len(values) > 1 else mean


def mean_of(figure: Mapping[str, float], digits: int = 4) -> str:
    """Format `{mean, spread}` in the same way."""
    mean = number(figure["mean"], digits)
    return mean if figure["spread"] is None else f"{mean} ± {number(figure['spread'], digits)}"


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f}%"


def only(figures: Figures) -> Mapping:
    """Return the figures of the only record."""
    (run,) = figures.values()
    return run


# ---- the pipeline's metrics ------------------------------------------------------------------------------------------------


def funnel(figures: Figures) -> str:
    stages = only(figures)["evaluation"]["funnel"]
    depths = sorted({int(name[7:]) for stage in stages.values() for name in stage if name.startswith("recall@")})
    learned = ("retrieval", "ranking", "slate")
    rows = [
        [
            name if name in learned else f"baseline: {name}",
            *(number(stage[f"recall@{k}"]) if f"recall@{k}" in stage else "" for k in depths),
            percent(stage["coverage"]),
        ]
        for name, stage in stages.items()
    ]
    return table(["", *(f"recall@{k}" for k in depths), "catalogue shown"], rows)


def summary(figures: Figures) -> str:
    """Tabulate the figures of README.md."""
    rows = []
    for record, name in (("sample", "committed sample, simulated"), ("pipeline-kuairand", "KuaiRand-Pure, real")):
        if record not in figures:
            continue
        evaluation = figures[record]["evaluation"]
        stages, ranked = evaluation["funnel"], evaluation["ranking"]["streaming"]["long_view"]
        baselines = {key: value for key, value in stages.items() if key not in ("retrieval", "ranking", "slate")}
        best = max(baselines, key=lambda key: baselines[key]["recall@100"])
        cells = [number(stages[stage]["recall@100"]) for stage in ("retrieval", "ranking")]
        rows.append([name, *cells, f"{number(baselines[best]['recall@100'])} ({best})", *_of_head(ranked, ("auc", "gauc"))])
    head = ["data", "recall@100, retrieval", "after ranking", "best baseline", "AUC, long view", "GAUC"]
    return table(head, rows)


def _of_head(metrics: Mapping, names: Sequence[str]) -> list[str]:
    return [number(metrics.get(name)) for name in names]


def lost(figures: Figures) -> str:
    shares = only(figures)["evaluation"]["lost"]
    return table(["lost at", *shares], [["share of long views", *map(number, shares.values())]])


def _lists(retrieval: Mapping) -> dict[str, Mapping]:
    lists = {"merged": retrieval["merged"]} | {f"source: {name}": each for name, each in retrieval["sources"].items()}
    return lists | {f"baseline: {name}": each for name, each in retrieval["floors"].items()}


def sources(figures: Figures) -> str:
    retrieval = only(figures)["evaluation"]["retrieval"]
    depths = [name for name in retrieval["merged"] if name.startswith("recall@")]
    head = ["", *(f"{depth}, {outcome}" for depth in depths for outcome in ("watched", "long views"))]
    rows = [
        [
            name,
            *(number(each[depth]["outcome"][outcome], 3) for depth in depths for outcome in ("watched", "long_view")),
            *(number(each[key], 3) for key in ("coverage", "gini", "popularity_lift")),
        ]
        for name, each in _lists(retrieval).items()
    ]
    return table([*head, "coverage", "Gini", "popularity lift"], rows)


def slices(figures: Figures) -> str:
    retrieval = only(figures)["evaluation"]["retrieval"]
    depths = [name for name in retrieval["merged"] if name.startswith("recall@")]
    rows = [
        [f"{part.replace('_', ' ')}: {value.replace('_', ' ')}", number(count)]
        + [number(retrieval["merged"][depth][part][value], 3) for depth in depths]
        for part, values in retrieval["relevant"].items()
        for value, count in values.items()
    ]
    return table(["slice", "videos watched", *(f"merged {depth}" for depth in depths)], rows)


def gain(figures: Figures) -> str:
    gains = only(figures)["evaluation"]["retrieval"]["gain"]
    rows = [
        [depth, each["over"].replace("/", ": "), *(number(each[key]) for key in ("mean", "low", "high"))]
        for depth, each in gains.items()
        if each
    ]
    return table(["merged over the best other list", "which", "gain", "95% from", "to"], rows)


def orders(figures: Figures) -> str:
    """Recall of the orders that stage `selection` tried, the chosen one marked."""
    found = only(figures)["selection"]
    depths = [*found["slate"]["slate"]]
    chosen = found["source"] or f"engage {found['engage']:g}"
    rows = [
        [f"**{name}**" if name == chosen else name, *(number(each[depth]) for depth in depths)]
        for name, each in found["orders"].items()
    ]
    return table(["order of the candidates", *depths], rows)


def verdict(figures: Figures) -> str:
    """The slate beside the baselines on the validation days."""
    found = only(figures)["selection"]
    depths = [*found["slate"]["slate"]]
    rows = []
    for name, each in found["slate"].items():
        gains = ("{} [{}, {}]".format(*map(number, each["gain"][depth])) if "gain" in each else "" for depth in depths)
        rows.append([name if name == "slate" else f"baseline: {name}", *(number(each[depth]) for depth in depths), *gains])
    return table(["", *depths, *(f"slate's gain, {depth}" for depth in depths)], rows)


def ranking(figures: Figures) -> str:
    regimes = only(figures)["evaluation"]["ranking"]
    rows = [
        [head, regime, *_of_head(regimes[regime][head], ("auc", "gauc", "logloss", "ece"))]
        for head in ("long_view", "click", "like")
        for regime in REGIMES
        if head in regimes.get(regime, {})
    ]
    return table(["head", "state", "AUC", "GAUC", "log loss", "calibration error"], rows)


def seconds(figures: Figures) -> str:
    regimes = only(figures)["evaluation"]["ranking"]
    rows = [
        [regime, number(each["watch_s"]["mae_s"], 2), number(each["watch_s"]["xauc"], 3)]
        for regime, each in regimes.items()
        if "watch_s" in each
    ]
    return table(["watch time, state", "mean absolute error, s", "XAUC"], rows)


def parts(figures: Figures) -> str:
    """Tabulate figures of single stages."""
    run = only(figures)
    weights = {name.partition("weight/")[2]: value for name, value in run["ranker"].items() if "weight/" in name}
    members = sorted({name.rpartition("/")[0] for name in weights})
    chosen = ", ".join(f"{member} {number(weights.get(f'{member}/long_view'), 1)}" for member in members)
    rows = [
        ["recall@100 of the next long view, towers alone, whole catalogue", number(run["two_tower"]["test/recall_at_100"])],
        ["weights of the ensemble's members, long view, chosen on validation days", chosen],
        ["largest difference between served and training probabilities (skew)", _tiny(run["evaluation"]["skew"])],
        ["the same of watch seconds, relative to them", _tiny(run["evaluation"].get("skew_watch_s"))],
        ["best single feature for a long view (AUC, leakage check)", _highest(run)],
        ["drift of the held-out day: columns drifted", _drift(run["drift"])],
    ]
    return table(["figure", "value"], [row for row in rows if row[1]])


def _tiny(value: float | None) -> str:
    return "" if value is None else f"{value:.0e}"


def _highest(run: Mapping) -> str:
    single = run["tripwire"]["checks"].get("single_feature", {}).get("highest", {}).get("long_view")
    return f"{number(single['auc'], 3)} ({single['feature']})" if single else ""


def _drift(run: Mapping) -> str:
    return f"{run['drifted']} of {run['columns']}; verdict {run['verdict']}" if "columns" in run else ""


def commands(figures: Figures) -> str:
    """Tabulate the two commands of README.md with their time."""
    pipeline, suite = figures.get("pipeline"), figures.get("suite")
    rows = [
        [
            "`make demo`",
            _minutes(pipeline),
            "installs, runs the pipeline on the committed sample, serves a page at http://127.0.0.1:3000",
        ],
        ["`make test`", _minutes(suite), "the same installation, then style, import rules and all tests"],
    ]
    return table(["command", "takes, once installed", "what one sees"], rows)


def _minutes(run: Mapping | None) -> str:
    return f"{run['seconds'] / 60:.1f} min" if run else "not measured"


# ---- benchmarks ------------------------------------------------------------------------------------------------------------

RANKED = {"auc": "AUC", "gauc": "GAUC", "ndcg@5": "nDCG@5", "logloss": "log loss", "ece": "calibration error"}
REQUESTED = {"gauc_request": "GAUC in requests", "ndcg@5_request": "nDCG@5 in requests", "mrr_request": "MRR in requests"}


def rankings(figures: Figures) -> str:
    models = {name: each for run in figures.values() for name, each in run["models"].items()}
    titles = RANKED | {key: title for key, title in REQUESTED.items() if any(key in each for each in models.values())}
    rows = []
    for name, each in models.items():
        runs = each.get("seeds", [each])
        rows.append([name, *(spread([run.get(key, np.nan) for run in runs]) for key in titles), str(len(runs))])
    for name, title in BASELINES.items():
        for each in [run["floors"][name] for run in figures.values() if name in run["floors"]][:1]:
            rows.append([f"baseline: {title}", *(number(each.get(key)) for key in titles), ""])
    return table(["", *titles.values(), "seeds"], rows)


def ranking_gain(figures: Figures) -> str:
    gains = [(figure, each) for run in figures.values() for figure, each in run.get("over_xgboost", {}).items()]
    rows = [[f"ranker over xgboost, {figure.upper()}", *map(number, each)] for figure, each in gains]
    rankers = [run["models"]["ranker"] for run in figures.values() if "ranker" in run.get("models", {})]
    for key, other in (("over_xgboost", "xgboost"), ("over_video_rate", BASELINES["video_rate"])):
        measured = [(title, ranker[key][figure]) for ranker in rankers if key in ranker for figure, title in REQUESTED.items()]
        rows += [[f"ranker over {other}, {title}", *map(number, each)] for title, each in measured]
    return table(["", "gain", "95% from", "to"], rows)


def framing(figures: Figures) -> str:
    framings = only(figures)["framing"]
    keys = {"auc": "AUC", "gauc": "GAUC", "ndcg@5": "nDCG@5", "ece": "calibration error"} | REQUESTED
    rows = [[f"`{name}`", *(mean_of(each[key]) if key in each else "" for key in keys)] for name, each in framings.items()]
    return table(["framing", *keys.values()], rows)


HEADS = {
    "raw/mae_watch_s": "MAE s, raw",
    "calibrated/mae_watch_s": "MAE s, calibrated",
    "raw/xauc_watch_s": "XAUC",
    "raw/stratified_xauc_watch_s": "XAUC within lengths",
    "raw/truth_rmse": "truth: RMSE s, raw",
    "calibrated/truth_rmse": "truth: RMSE s, calibrated",
    "raw/truth_xauc": "truth: XAUC",
    "calibrated/own_spread": "own spread, calibrated",
}


def watch_time(figures: Figures) -> str:
    heads = only(figures)["watch_time"]
    keys = [key for key in HEADS if any(key in each for each in heads.values())]
    digits = {key: 2 if key.endswith(("mae_watch_s", "rmse")) else 3 for key in keys}
    rows = [[f"`{name}`", *(mean_of(each[key], digits[key]) for key in keys)] for name, each in heads.items()]
    return table(["head", *(HEADS[key] for key in keys)], rows)


HEADED = {"auc": "AUC", "gauc": "GAUC", "logloss": "log loss"}


def importance(figures: Figures) -> str:
    groups = only(figures)["importance"]["worse_by"]
    order = sorted(groups, key=lambda group: -groups[group]["auc"]["mean"])
    rows = [[group, *(mean_of(groups[group][key]) for key in HEADED)] for group in order]
    return table(["inputs permuted", *(f"{title}, worse by" for title in HEADED.values())], rows)


def learning_curve(figures: Figures) -> str:
    sizes = only(figures)["learning_curve"]["sizes"]
    rows = [[number(size["rows"]), *(mean_of(size[key]) for key in HEADED)] for size in sizes]
    return table(["training impressions", *HEADED.values()], rows)


DEBIASED = {"pearson": "Pearson", "rank": "rank correlation", "rmse": "RMSE", "mean_ratio": "mean predicted over true"}


def debias(figures: Figures) -> str:
    run = only(figures)
    ways = {"position": "position as an input of training", "propensity": "rows weighted by inverse propensity"}
    rows = [(ways.get(name, name), each) for name, each in run["ways"].items()]
    titles = {"plain": "slates in order of popularity, plain", "position": "the same, position as an input of training"}
    rows += [(titles.get(name, name), each) for name, each in run["placed"].items()]
    return table(["", *DEBIASED.values()], [[title, *(mean_of(each[key], 3) for key in DEBIASED)] for title, each in rows])


def drift(figures: Figures) -> str:
    """Tabulate windows without drift, by viewers and by rows, and the cost of a check."""
    run = only(figures)
    titles = {"windows": "windows", "viewers": "effective viewers of a window", "rows": "impressions of a window",
              "checks": "checks", "false_alarms": "verdict drift", "checks_below_.05": "checks with p below .05"}  # fmt: skip
    ways = [run["false_alarms"], run["rows_alone"]]
    rows = [[f"without drift: {title}", *(number(way[key], 3) for way in ways)] for key, title in titles.items()]
    costs = {"rows": "impressions", "cpu_s": "seconds of the processor", "peak_mb": "peak memory, MB",
             "before_mb": "of which imports, MB", "sketch_kb": "sketch, kB"}  # fmt: skip
    rows += [[f"a served log checked: {title}", number(run["cost"][key]), ""] for key, title in costs.items()]
    return table(["", "viewers as sample", "rows as sample"], rows)


def drift_power(figures: Figures) -> str:
    """Tabulate how often each planted drift is named, by its size."""
    planted = only(figures)["power"]
    rows = [[kind, *(f"{size}: {number(share, 2)}" for size, share in sizes.items())] for kind, sizes in planted.items()]
    return table(["planted", *(f"size {n}: named" for n in range(1, 1 + max(map(len, planted.values()))))], rows)


def off_policy(figures: Figures) -> str:
    """Tabulate, by overlap, coverage and error of the estimators of every level, and of the one that was chosen."""
    run = only(figures)
    overlaps = {name: run[name] for name in ("wide", "medium", "thin")}
    rows = [
        [
            "effective share of the requests, whole slates",
            *(number(each["effective"]["slate"], 3) for each in overlaps.values()),
        ]
    ]
    for title, key in (("coverage", "coverage"), ("coverage before it is widened", "as_estimated"), ("times wider", "wider"),
                       ("error over the least", "of_least")):  # fmt: skip
        rows.append([f"chosen: {title}", *(number(each["chosen"][key], 3) for each in overlaps.values())])
    for name in next(iter(overlaps.values()))["estimators"]:
        rows.append([f"{name}: coverage", *(number(each["estimators"][name]["coverage"], 3) for each in overlaps.values())])
    return table(["95% intervals over viewers", *overlaps], rows)


TRUE_COLUMNS = ("ordered by", "share of the true best 10", "long views of the first 10", "seconds of the first 10",
                "recall@10 in the log")  # fmt: skip


def true_best(figures: Figures) -> str:
    run = only(figures)
    rows = [
        [way, name, " ± ".join(number(value, 3) for value in each["share"]), number(each["long_view"], 3),
         number(each["watch_s"], 1), number(each.get("recall"), 3)]
        for way in ("retrieved", "drawn")
        for name, each in run[way].items()
    ]  # fmt: skip
    return table(["candidates", *TRUE_COLUMNS], rows)


def true_worlds(figures: Figures) -> str:
    """Every world over its runs: what each order finds, and what it gains on the value alone."""
    run = only(figures)
    rows = []
    for world, orders in run["worlds"].items():
        for order, each in orders.items():
            gain = run["gain"][world].get(order)
            rows.append([world, order, *(mean_of(each[figure], digits) for figure, digits in TRUTH.items()), _interval(gain)])
    return table(["world", *TRUE_COLUMNS, "share, gain on value, 95%"], rows)


TRUTH = {"share": 3, "long_view": 3, "watch_s": 1, "recall": 3}


def _interval(gain: Mapping | None) -> str:
    return "" if gain is None else "{} [{}, {}]".format(*(number(value, 3) for value in gain["share"]))


def true_policies(figures: Figures) -> str:
    """Share of the true best 10 in every world and logging policy, and the worst world."""
    run = only(figures)
    columns = [(world, policy) for world, policies in run["cells"].items() for policy in policies]
    names = next(iter(run["worlds"].values()))
    rows = [
        [order, *(mean_of(run["cells"][world][policy][order]["share"], 3) for world, policy in columns), _worst(run, order)]
        for order in names
    ]
    seeds = ["seeds", *(str(run["seeds"][world][policy]) for world, policy in columns), ""]
    return table(["ordered by", *(f"{world}, {policy}" for world, policy in columns), "worst world"], [*rows, seeds])


def _worst(run: Mapping, order: str) -> str:
    worst = run["worst"][order]["share"]
    return f"{number(worst['mean'], 3)} ({worst['world']})" if worst["world"] else "–"


def closed_loop(figures: Figures) -> str:
    """What the funnel gains over each policy in seconds, by world; the worst run; how often it wins and loses clearly."""
    run = only(figures)
    rows = []
    for policy, (name, worst) in run["worst"].items():
        won = run["won"][policy]
        gains = [_signed(run["gain"][world][policy]) for world in run["gain"]]
        rows.append([policy, *gains, f"{_signed(worst)}, {name}", f"{won['won']} won, {won['lost']} lost of {won['runs']}"])
    return table(["full over", *(f"{world}, runs" for world in run["gain"]), "worst run, viewers", "clearly"], rows)


def _signed(interval: Sequence[float | None]) -> str:
    """Format a relative gain in percent with its interval, where it has one."""
    mean, *ends = (f"{100 * value:+.0f}%" for value in interval if value is not None)
    return f"{mean} [{', '.join(ends)}]" if ends else mean


def global_split(figures: Figures) -> str:
    run = only(figures)
    keys = ("recall@10", "hit@10", "ndcg@10", "ndcg@10_of_10", "coverage@10")
    rows = [
        [f"{viewers}, {number(run[viewers]['viewers'])}", name.replace("_", " "), *(number(each[key]) for key in keys)]
        for viewers in ("all", "warm")
        for name, each in run[viewers].items()
        if name != "viewers"
    ]
    return table(["viewers", "list", "recall@10", "hit@10", "nDCG@10", "nDCG@10, ideal of 10", "coverage@10"], rows)


def toys(figures: Figures) -> str:
    runs = list(figures.values())
    first = runs[0]
    rows = [
        [title, *(spread([run[f"{prefix}{key}@10"] for run in runs]) for key in ("recall", "ndcg"))]
        for title, prefix in (("towers alone", ""), ("towers, co-watch graph, transitions, popularity, merged", "merged_"))
    ]
    rows += [
        [f"baseline: {name}", *(spread([run["floors"][name][f"{key}@10"] for run in runs]) for key in ("recall", "ndcg"))]
        for name in sorted(first["floors"], key=lambda name: -first["floors"][name]["recall@10"])
    ]
    rows.append(["an epoch, s", spread([run["epoch_s"] for run in runs], 1), ""])
    rows.append(["the whole run, min", spread([run["run_s"] / 60 for run in runs], 1), ""])
    return table(["", "recall@10", "nDCG@10"], rows)


def toys_gain(figures: Figures) -> str:
    rows = [
        [str(run["seed"]), name, run["over_strongest_floor"]["floor"], metric, *map(number, ends)]
        for run in figures.values()
        for name in ("towers", "merged")
        for metric, ends in run["over_strongest_floor"][name].items()
    ]
    return table(["seed", "gain of", "over", "in", "95% from", "to"], rows)


def cold_start(figures: Figures) -> str:
    recalls = only(figures)["recall@500"]
    groups = [("any age", recalls["by_video_age"]["any age"]), ("under 24 h", recalls["by_video_age"]["under 24h"])]
    groups += [(f"viewers with {name} watches", each) for name, each in recalls["by_watches"].items()]
    models = list(dict.fromkeys(name for _, each in groups for name in each))
    rows = [[name, *(number(each.get(name), 3) for _, each in groups)] for name in models]
    return table(["", *(f"{title}" for title, _ in groups)], rows)


def worlds(figures: Figures) -> str:
    logs = only(figures)["logs"]
    names = next(iter(logs.values()))
    rows = [[name, *(_compact(log[name]) for log in logs.values())] for name in names]
    return table(["", *logs], rows)


def _compact(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.4g}"


def columns(rows: Mapping[str, Callable[[Mapping], object]]) -> Callable[[Figures], str]:
    """Make a table maker with a column per record; a row without a value is left out."""

    def made(figures: Figures) -> str:
        cells = [[title, *(_cell(of, record) for record in figures.values())] for title, of in rows.items()]
        return table(["", *(f"`{name}`" for name in figures)], [row for row in cells if any(row[1:])])

    return made


def _cell(of: Callable[[Mapping], object], figures: Mapping) -> str:
    value = of(figures)
    return value if isinstance(value, str) else "" if value is None else number(value, 3)


# ---- arithmetic on measured inputs ------------------------------------------------------------------------------------------

ASSUMED = Path(__file__).resolve().parents[2] / "conf" / "config.yaml"


def capacity(figures: Figures) -> str:
    """Tabulate the plan of `python -m watchnext.lifecycle capacity`; nothing if an input was not measured."""
    if not scaling_curves.RECORDS.keys() <= figures.keys():
        return ""
    curves, assumed = scaling_curves.ScalingCurves.of(figures), yaml.safe_load(ASSUMED.read_text())["capacity"]["assumptions"]
    largest = capacity_report.published_sizes()[-1]
    parts = {
        "Low / mid / high, with two videos a viewer:": capacity_report.totals(
            capacity_report.published_sizes(), assumed, curves
        ),
        "500 million viewers a day and a billion videos, mid:": capacity_report.needs(
            scenarios_of(*largest, assumed, curves)["mid"]
        ),
        "Which part of one machine is full first, mid:": capacity_report.limits(assumed, curves),
        "The largest measured size of each curve, predicted from the smaller ones:": capacity_report.checks(curves),
        "Published figures of others:": capacity_report.peers(assumed, curves),
        "Assumptions:": capacity_report.assumptions(assumed),
    }
    return "\n\n".join(f"{title}\n\n{table(head, rows)}" for title, (head, *rows) in parts.items())


def loop(figures: Figures) -> str:
    """Tabulate the arms of the demo of the loop, and what was expected of it."""
    run = only(figures)["figures"]
    held = [f"{what}: {'is not known' if holds is None else 'yes' if holds else 'no'}" for what, holds in verdicts(run).items()]
    head, *rows = table_rows(run)
    return f"{table(head, rows)}\n\nThe loop {'; '.join(held)}."


def fleet(figures: Figures) -> str:
    """Tabulate the simulated fleets by incident, and the one machine beside its measurement."""
    run = only(figures)
    rows = []
    for viewers, found in run["fleets"].items():
        for name, day in found["days"].items():
            times, shares = (number(day[each], 1) for each in ("p50_ms", "p99_ms")), (day["shed"], day["degraded"])
            needed = map(number, (day["processes"], day["machines"]))
            size = [capacity_report.count(float(viewers)), number(found["processes"])]
            rows.append([*size, name, *times, *(f"{share:.2%}" for share in shares), *needed])
    head = ["viewers a day", "processes, half busy", "incident", "p50, ms", "p99, ms", "shed", "degraded", "processes needed"]
    one = run["one_machine"]
    checked = [[name, *(number(one[kind][name], 2) for kind in ("simulated", "measured")),
                f"{one['simulated'][name] / one['measured'][name] - 1:+.0%}"] for name in ("p50_ms", "p99_ms")]  # fmt: skip
    check = table(["one process, 40 slates/s", "simulated", "measured", "error"], checked)
    return f"{table([*head, 'machines'], rows)}\n\n{check}"
