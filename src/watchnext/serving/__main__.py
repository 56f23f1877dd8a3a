"""`python -m watchnext.serving serve | build-store | recommendations | replay | state build | events in | events out`: serve,
and what belongs to it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from watchnext.data.tables import DataError
from watchnext.metrics import aligned
from watchnext.schema import SchemaError
from watchnext.serving.events.event_log import EXPECTED, EventLog, EventLogError, opened_log
from watchnext.serving.events.publisher import JournalBehindError, Publisher
from watchnext.serving.events.refused_messages import RefusedMessages
from watchnext.serving.events.retrying import Retrying
from watchnext.serving.funnel.ahead.batch import recommend_all
from watchnext.serving.funnel.ahead.spark_batch import SparkBatch
from watchnext.serving.funnel.served.repeated import differences, repeated
from watchnext.serving.funnel.served.served_log import answers_in
from watchnext.serving.release.manifest import ReleaseError
from watchnext.serving.release.release import Release, current
from watchnext.serving.store.engines.engine import StoreError, StoreHeldError
from watchnext.serving.store.engines.redis_engine import is_url, location
from watchnext.serving.store.store import Store, build_store
from watchnext.serving.store.tables.slate_table import SlateTable
from watchnext.spark import SparkError, engine

if TYPE_CHECKING:
    from omegaconf import DictConfig


def serve(words: Sequence[str]) -> None:
    """Serve releases/current without BentoML's supervisor: --host, --port."""
    from watchnext.serving.http.shell.uvicorn_shell import serve

    serve(words)


def store(config: DictConfig) -> None:
    """Build the store of the serving release, or rebuild one of another schema or catalogue."""
    from watchnext.cli import write_report

    release = Release.load(current(Path(config.data.releases)))
    folder = location(config.data.store)
    try:
        Store.open(folder, release).close()
    except StoreError as error:
        print(f"{error}\nrebuilding {folder}")
        if lost := build_store(folder, release):
            print(f"{lost:,} events of the journal are damaged and were left out")
    write_report(
        Path(config.data.outputs) / "store.json", {"state": release.state_fingerprint, "schema": release.manifest["schema"]}
    )
    print(f"{folder}: fits {release.id}")


def recommendations(config: DictConfig) -> None:
    """Compute every viewer's slate with the serving release, into its store for `mode=precomputed` and as Parquet; a run that
    was interrupted goes on. A server may run beside it."""
    from watchnext.cli import write_report

    if config.engine == "spark" and not config.master.startswith("local") and not is_url(config.data.store):
        store = config.data.store
        raise StoreError(f"data.store is {store}, which this machine alone can open; master={config.master} needs a Redis")
    release, folder = Release.load(current(Path(config.data.releases))), location(config.data.store)
    with suppress(StoreHeldError):  # the server keeps it open
        Store.open(folder, release).close()
    with SlateTable.opened(folder, release.state_fingerprint) as slates:
        # A slate is computed as of now, so that it includes all events of the store.
        now_ms = int(time.time() * 1000) if release.clock == "wall" else max(release.as_of_ms, slates.last_known_at + 1)
    outputs = Path(config.data.outputs)
    with engine(config.engine, config.master) as spark:
        compute = SparkBatch(spark).computed if spark else None
        report = recommend_all(
            release, folder, outputs / "recommendations", k=config.slate_size, now_ms=now_ms, compute=compute
        )
    write_report(outputs / "metrics" / "recommendations.json", {"release": release.id, **asdict(report)})
    print(f"{release.id}: {report.slates:,} slates for {report.users:,} users, also in {outputs / 'recommendations'}")


def state_build(config: DictConfig) -> None:
    """Build a store from a log (--log DIR) beside the serving one, or update it; the release's next server uses it."""
    # Imported here, as it needs the validation of tables, without which the other commands start sooner.
    from watchnext.serving.store.from_log import build_from_log

    if config.log is None:
        raise StoreError("log is null, expected a folder; run `python -m watchnext.serving state build --log DIR`")
    if is_url(config.data.store):
        raise StoreError(f"data.store is {config.data.store}, expected a folder; `state build` makes stores of LMDB alone")
    releases, folder = Path(config.data.releases), Path(config.data.store)
    release = Release.load(releases / config.release if config.release else current(releases))
    serves = (releases / "current").resolve() == release.folder
    report = build_from_log(folder, release, Path(config.log), snapshots=config.snapshots, serves=serves)
    print("\n".join(aligned([(name, str(value)) for name, value in asdict(report).items()])))
    print(f"{folder}: {'fits' if report.switched else 'will be used when a server starts with'} {release.id}")


def replay(config: DictConfig) -> None:
    """Answer a logged request again, on its release and the state of its moment, and print both answers."""
    answers = answers_in(Path(config.monitoring.served)).filter(pl.col("request_id") == config.request_id)
    if not len(answers):
        raise StoreError(f"request_id is {config.request_id!r}, expected one of the served log {config.monitoring.served}")
    release = Release.load(Path(config.data.releases) / answers["release"].item())
    with closing(Store.reader(Path(config.data.store), release)) as store:
        found = list(repeated(answers, release, store))
    if not found:
        raise StoreError(
            f"the answer to {config.request_id} cannot be repeated: it was precomputed or degraded, events were committed "
            "meanwhile, or a viewer of its journal was erased since"
        )
    columns = ["video_ids", "values", *(name for name in found[0].again.columns if name.startswith("predicted_"))]
    for name, frame in (("served", found[0].logged), ("again", found[0].again)):
        print(f"{name}\n{frame.select(columns)}")
    apart = {name: value for name, value in differences(found[0]).items() if value}
    print(f"differs: {apart}" if apart else "equal: videos, values, predictions and features, bit for bit")


def events_in(config: DictConfig) -> None:
    """Post the events of a log (from=URL) to a running server, until SIGTERM; since=TIME or since=POSITION reads again."""
    # Imported here, as no stage needs a client.
    from watchnext.client import ApiError, Client
    from watchnext.serving.events.feed import EventFeed

    retrying, refused = Retrying.until_signal(), RefusedMessages(Path(config.data.outputs) / "events" / "refused.jsonl")
    log, client = _log(config, "from"), Client(config.events.server, key=os.environ.get("WATCHNEXT_KEY") or None, retries=0)
    with closing(log), client:
        if config.events.since is not None:
            log.seek(_since(config.events.since))
        feed = EventFeed(log, client, refused, retrying)
        try:
            feed.run()
        except ApiError as error:
            raise EventLogError(f"{config.events.server} refuses what {log.name} holds: {error}") from error
    aside = f", {feed.put_aside:,} of them refused: see {refused.path}" if feed.put_aside else ""
    print(f"{log.name} > {config.events.server}: {feed.messages:,} messages{aside}")


def events_out(config: DictConfig) -> None:
    """Append the events of the store to a log (to=URL), beside a server, until SIGTERM; it goes on behind the last of them."""
    retrying = Retrying.until_signal()
    with closing(_log(config, "to")) as log:
        publisher = Publisher(location(config.data.store), log, retrying)
        publisher.run()
    print(f"{config.data.store} > {log.name}: {publisher.messages:,} messages")


def _log(config: DictConfig, word: str) -> EventLog:
    if config.events.log is None:
        raise EventLogError(f"events.log is null, expected {EXPECTED}; give {word}=URL")
    return opened_log(config.events.log, config.events.group)


def _since(given: object) -> int | str:
    """Read a time (ms, or ISO 8601, of UTC where it names no zone), or else a position."""
    if isinstance(given, int):
        return given
    try:
        at = datetime.fromisoformat(str(given))
    except ValueError:
        return str(given)
    return int(1000 * (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp())


if __name__ == "__main__":
    commands = {
        "serve": serve,
        "build-store": store,
        "recommendations": recommendations,
        "replay": replay,
        "state build": state_build,
        "events in": events_in,
        "events out": events_out,
    }
    if sys.argv[1:2] == ["serve"]:  # without Hydra, which a server need not have
        serve(sys.argv[2:])
    else:
        from watchnext.cli import dispatch

        errors = (ReleaseError, StoreError, DataError, SchemaError, SparkError, EventLogError, JournalBehindError)
        short = {
            "events in": {"from": "events.log", "since": "events.since", "server": "events.server"},
            "events out": {"to": "events.log"},
        }
        dispatch("watchnext.serving", commands, errors, leading={"replay": "request_id"}, short=short)
