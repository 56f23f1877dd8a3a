"""Measured costs as functions of size: read from the records of `benchmarks`, extrapolated by a stated law, and checked.

A curve has two parameters and three points. It goes through the two largest; the largest is predicted from the two before it,
and that error is reported beside every plan, since a plan for a larger size rests on the same law.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path("benchmarks/results")
SERVING = ("serving-2k", "serving-6k", "serving-20k")
INDEX = ("index-curve-20k", "index-curve-100k", "index-curve-1m")
SMALL_WORLD = "--users 5000 --steps 60 --queries 200"  # of viewers; the videos are counted
FEATURES = ("features-curve-20k", "features-curve-200k", "features-curve-2m")
# Record > arguments of `python -m benchmarks.record` that make it again.
RECORDS = {
    "store": "store",
    "serving": "serving --requests 500",
    "serving-http": "--label http serving --seconds 20",
    "serving-2k": "--label 2k serving --videos 2000",
    "serving-6k": "--label 6k serving --videos 6000",
    "serving-20k": "--label 20k serving --videos 20000",
    "index-curve-20k": f"--label curve-20k index --videos 20000 {SMALL_WORLD}",
    "index-curve-100k": f"--label curve-100k index --videos 100000 {SMALL_WORLD}",
    "index-curve-1m": f"--label curve-1m index --videos 1000000 {SMALL_WORLD}",
    "features-curve-20k": "--label curve-20k features --impressions 20000",
    "features-curve-200k": "--label curve-200k features --impressions 200000",
    "features-curve-2m": "--label curve-2m features --impressions 2000000",
    "ranker_training-curve": "--label curve ranker_training --impressions 200000 --steps 30",
}


@dataclass(frozen=True)
class TenfoldStep:
    """The largest point of a curve, `measured`, and `predicted` from the smaller ones."""

    size: float
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """The relative error of the prediction."""
        return self.predicted / self.measured - 1


@dataclass(frozen=True)
class ScalingCurve:
    """A measured cost at some sizes. Its law is a + b * size (`linear`) or a + b * log10(size) (`logarithmic`), a, b >= 0."""

    sizes: tuple[float, ...]
    values: tuple[float, ...]
    law: str = "linear"

    def at(self, size: float) -> float:
        """Return the cost at a size, by the law through the two largest points."""
        return self._through(-2, None, size)

    @property
    def step(self) -> TenfoldStep:
        """The check: the largest point by the law through the two before it."""
        return TenfoldStep(self.sizes[-1], self._through(-3, -1, self.sizes[-1]), self.values[-1])

    def _through(self, first: int, last: int | None, size: float) -> float:
        (x, further), (y, value) = map(self._term, self.sizes[first:last]), self.values[first:last]
        b = (value - y) / (further - x)
        if b < 0:  # noise: a cost does not fall with size
            return (y + value) / 2
        if y < b * x:  # nor is it below nothing
            return value / further * self._term(size)
        return y + b * (self._term(size) - x)

    def _term(self, size: float) -> float:
        return math.log10(max(size, 1.0)) if self.law == "logarithmic" else size


@dataclass(frozen=True)
class ScalingCurves:
    """Everything measured that a plan multiplies.

    slate_ms       videos > processor time of a slate of 500 candidates, by one process that holds them all
    search_ms      videos > processor time of one search in the vector index
    index_bytes    videos > bytes of the vector index in memory
    store_bytes    viewers > bytes of the online store with one watch each
    features_s     impressions > processor time of the feature stage
    The others are costs of one viewer, video, event, slate or training row.
    """

    slate_ms: ScalingCurve
    search_ms: ScalingCurve
    index_bytes: ScalingCurve
    store_bytes: ScalingCurve
    features_s: ScalingCurve
    viewer_bytes: float
    video_state_bytes: float
    video_column_bytes: float
    event_cpu_us: float
    event_bytes: float
    journal_event_bytes: float
    answer_log_bytes: float
    training_row_bytes: float
    rows_per_cpu_s: float
    server_bytes: float
    server_slates_per_s: float
    server_events_per_s: float
    slate_p50_ms: float
    slate_p99_ms: float

    @classmethod
    def load(cls, results: Path = RESULTS) -> "ScalingCurves":
        """Read the records in a folder. Raises FileNotFoundError naming the first that is missing, and the command for it."""
        records = {}
        for name, arguments in RECORDS.items():
            if not (path := results / f"{name}.json").exists():
                raise FileNotFoundError(f"{path} is missing; measure it: python -m benchmarks.record {arguments}")
            records[name] = json.loads(path.read_text())
        return cls.of({name: record["figures"] for name, record in records.items()})

    @classmethod
    def of(cls, figures: Mapping[str, Mapping]) -> "ScalingCurves":
        """Take the curves from the figures of all RECORDS."""
        serving, http, store = (figures[name] for name in ("serving", "serving-http", "store"))
        held = serving["release_bytes_per_video"]
        index = [figures[name] for name in INDEX]
        return cls(
            slate_ms=_curve([figures[name] for name in SERVING], "videos", "cpu_ms", law="logarithmic"),
            search_ms=_curve(index, "videos", "cpu_p50_ms", law="logarithmic"),
            index_bytes=ScalingCurve(
                tuple(each["videos"] for each in index), tuple(each["videos"] * each["resident_bytes"] for each in index)
            ),
            store_bytes=_curve(store["curve"], "viewers", "store_bytes"),
            features_s=_curve([figures[name] for name in FEATURES], "impressions", "cpu_s"),
            viewer_bytes=serving["viewer_state_bytes"],
            video_state_bytes=serving["video_state_bytes"],
            video_column_bytes=held["catalogue"] + held["videos"],
            event_cpu_us=store["known_event_cpu_us"],
            event_bytes=store["event_bytes"],
            journal_event_bytes=serving["journal_event_bytes"],
            answer_log_bytes=serving["served_answer_bytes"],
            training_row_bytes=figures[FEATURES[-1]]["column_bytes_per_impression"],
            rows_per_cpu_s=figures["ranker_training-curve"]["rows_per_cpu_s"],
            server_bytes=1e6 * http["rss_mb"],
            server_slates_per_s=http["capacity_rps"],
            server_events_per_s=http["events_per_s"],
            slate_p50_ms=serving["p50_ms"],
            slate_p99_ms=serving["p99_ms"],
        )

    @property
    def steps(self) -> dict[str, TenfoldStep]:
        """Every curve's predicted largest point, by what it is and per what."""
        return {
            "bytes of the store, by viewers": self.store_bytes.step,
            "bytes of the index, by videos": self.index_bytes.step,
            "ms a search, by videos": self.search_ms.step,
            "ms a slate, by videos": self.slate_ms.step,
            "s of the feature stage, by impressions": self.features_s.step,
        }


def _curve(points: Sequence[Mapping], size: str, value: str, *, law: str = "linear") -> ScalingCurve:
    return ScalingCurve(tuple(each[size] for each in points), tuple(each[value] for each in points), law)
