"""Answer logged requests again: by their release, on the state of their moment, over the candidates that they had.

The state follows from the release that the store was built from, and its journal. Candidates are taken from the log: some
sources rank the catalogue anew by the clock, whose moment would decide what is retrieved.
"""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, is_dataclass
from itertools import islice, takewhile
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import orjson
import polars as pl

from watchnext.features.catalogue import Ids
from watchnext.serving.funnel.query import features_by_name
from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.funnel.served.served_log import shown_videos
from watchnext.serving.release.manifest import ReleaseError
from watchnext.serving.release.release import Release
from watchnext.serving.store.building.bootstrap import load_state, put_origin
from watchnext.serving.store.engines.engine import StoreError
from watchnext.serving.store.engines.environment import MAP_BYTES, Environment
from watchnext.serving.store.store import Store
from watchnext.types import SOURCES, TARGETS, Candidates, Request

CHUNK = 5_000  # events of the journal at a time
_PLAIN = Request("", "", 0, 0)


@dataclass(frozen=True)
class Repeated:
    """One logged request, its answer `logged` as in `shown_videos`, and what its release answers `again`: one row a video, best
    first, with video_ids, values, propensities, predicted_..., and its features."""

    request: Request
    logged: pl.DataFrame
    again: pl.DataFrame


class Past:
    """The state of a store as of an earlier event of its journal, of some viewers; it can be moved on.

    Raises StoreError where the journal no longer has what is needed.
    """

    def __init__(self, folder: Path, store: Store, release: Release, viewers: list[int | str]) -> None:
        """Begin with the state from which `store` was built; `folder` is empty."""
        origin = _origin(store, release)
        environment = Environment(folder, durable=False, map_bytes=MAP_BYTES)
        rows = np.unique(origin.user_ids.rows(viewers))
        put_origin(environment, origin, since_ms=store.origin[1])
        load_state(environment, origin, rows[rows >= 0])
        self.store = Store(environment, release)
        self._entries, self._position = store.entries(), 0

    def move(self, position: int) -> None:
        """Fold the events of the journal up to `position`."""
        while self._position < position:
            part = list(islice(self._entries, min(CHUNK, position - self._position)))
            if not part:
                raise StoreError(f"the journal ends at {self._position}, expected event {position} of the served log")
            if part[0][0] != self._position:
                raise StoreError(
                    f"the journal goes on at {part[0][0]}, expected event {self._position}: what it dropped cannot be folded "
                    "again; raise WATCHNEXT_JOURNAL_BYTES to keep more"
                )
            self.store.take(part)
            self._position = part[-1][0] + 1

    def close(self) -> None:
        self.store.close()


def repeated(answers: pl.DataFrame, release: Release, store: Store) -> Iterator[Repeated]:
    """Yield every answer of `release` in the served log again, in the order of the journal.

    Left out are answers that were precomputed or degraded, during which events were committed, or which had the events of a
    viewer who was erased since (`repeatable`).
    Raises ReleaseError or StoreError where the state cannot be had again.
    """
    rows = repeatable(answers, store).filter(pl.col("release") == release.id).sort("journal_position", "as_of_ms")
    requests = [request_of(row, release) for row in rows.iter_rows(named=True)]
    viewers = [request.user_id for request in requests]
    with TemporaryDirectory() as folder, closing(Past(Path(folder), store, release, viewers)) as past:
        recommender = Recommender(release, past.store)
        for request, row in zip(requests, rows.iter_slices(1), strict=True):
            past.move(row["journal_position"].item())
            yield Repeated(request, shown_videos(row), _again(recommender, request, row))


def repeatable(answers: pl.DataFrame, store: Store | None = None) -> pl.DataFrame:
    """Return the answers that follow from a state and candidates alone; with a `store`, from what its journal still says: of an
    erased viewer's events a tombstone is left, and what they counted for videos is unknown from the first on."""
    if "journal_position" not in answers.columns:
        return answers.clear().with_columns(journal_position=pl.lit(None, pl.Int64))
    whole = pl.col("journal_position").is_not_null() & (pl.col("why").list.len() == 0)
    answers = answers.filter(whole & (pl.col("mode") != "precomputed"))
    if store is None or not len(answers):
        return answers
    entries = takewhile(lambda entry: entry[0] < answers["journal_position"].max(), store.entries())
    erased = next((position for position, event in entries if event.kind == "erased"), None)
    return answers if erased is None else answers.filter(pl.col("journal_position") <= erased)


def request_of(row: dict, release: Release) -> Request:
    """Read the request of a row of the served log."""
    asked = {name: _as_default(name, value) for name, value in orjson.loads(row["asked"]).items()}
    known = {"request_id": row["request_id"], "k": row["k"], "as_of_ms": row["as_of_ms"]}
    return Request(user_id=id_of(row["user_id"], release.user_ids), **known, **asked)


def _as_default(name: str, value: object) -> object:
    """Give a value from JSON the type that its field has by default."""
    default = getattr(_PLAIN, name)
    if isinstance(default, tuple):
        return tuple(value)
    return type(default)(**value) if is_dataclass(default) else value


def id_of(logged: str, ids: Ids) -> int | str:
    """Return the id that the log holds as a string; that of a session is no number."""
    number = int(logged) if logged.removeprefix("-").isdigit() else logged
    return number if ids.takes(number) else logged


def _origin(store: Store, release: Release) -> Release:
    """Load the release from whose state the store was built."""
    name, _ = store.origin
    if name == release.id:
        return release
    folder = release.folder.parent / name
    if not folder.is_dir():
        raise ReleaseError(f"{folder} is gone, but the store was built from its state; earlier answers cannot be repeated")
    return Release.load(folder)


def _again(recommender: Recommender, request: Request, row: pl.DataFrame) -> pl.DataFrame:
    """Answer again; return one row a video, with the columns of `shown_videos`."""
    release, ranking = recommender.release, recommender.ranking
    candidates = Candidates(
        row["candidate_rows"].item().to_numpy().astype(np.int64),
        row["candidate_sources"].item().to_numpy(),
        row["candidate_scores"].item().to_numpy(),
        row["candidate_ranks"].item().to_numpy().reshape(-1, len(SOURCES)),
    )
    query = recommender.query(request)
    inputs = ranking.encode(query, candidates.rows)
    scored = ranking.rank(query, candidates, inputs, [], late=False)
    slate = recommender.rerank(query, scored)
    picked = slate.picked
    features = features_by_name(release.pipeline, {**query.inputs, **{name: values[picked] for name, values in inputs.items()}})
    predictions = scored.predictions[picked]
    columns = {
        "video_ids": [str(each) for each in recommender.catalogue.ids.values(candidates.rows[picked])],
        "values": slate.values,
        "propensities": slate.propensities,
        **{f"predicted_{name}": predictions[:, i] for i, name in enumerate(TARGETS)},
        **{name: values.tolist() if values.dtype.kind == "O" else values for name, values in features.items()},
    }
    return pl.DataFrame(columns, strict=False)


def differences(one: Repeated) -> dict[str, float]:
    """Return the largest difference of each column: 0 where it is the same bit for bit, inf where texts or videos differ."""
    if one.logged["video_ids"].to_list() != one.again["video_ids"].to_list():
        return {"video_ids": np.inf}
    logged = one.logged.drop("user_id")
    if "user_id_right" in logged.columns:  # the feature; the id of the request has its name
        logged = logged.rename({"user_id_right": "user_id"})
    return {name: _apart(logged[name], one.again[name]) for name in one.again.columns if name in logged.columns}


def _apart(logged: pl.Series, again: pl.Series) -> float:
    if not again.dtype.is_numeric():
        return 0.0 if logged.to_list() == again.to_list() else np.inf
    before, after = (each.cast(pl.Float64).to_numpy() for each in (logged, again))
    same = (before == after) | (np.isnan(before) & np.isnan(after))
    return float(np.max(np.where(same, 0.0, np.abs(before - after)), initial=0.0))
