"""A release tried beside the one that serves: who answers whom, what both stores hold, what ends it, and what is left."""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import httpx
import numpy as np
import pytest
from api import Api, ids
from bento_server import Server
from tests.redis_server import RedisServer

import small_release
from watchnext.serving.funnel.answer import INDEX_FAILED
from watchnext.serving.funnel.served.served_log import answers_in
from watchnext.serving.http.settings import Settings
from watchnext.serving.http.shell.served_app import ServedApp
from watchnext.serving.release.canary_plan import CHALLENGER, CanaryPlan, end_plan, new_plan, read_plan, write_plan
from watchnext.serving.release.manifest import ReleaseError
from watchnext.serving.release.release import Release, switch
from watchnext.serving.release.release_url import ReleaseUrl
from watchnext.serving.store.store import Store

HALF = CanaryPlan(release="same", share=0.5)
VIEWERS = range(100, 125)
SHADOW_CPU = 0.25


@pytest.fixture(scope="module")
def made(feature_stage, once, tmp_path_factory) -> Path:
    """Releases of `make_releases`, `elsewhere` of another data set, and `lax`, which shows mature videos to everyone."""
    root = tmp_path_factory.mktemp("canary") / "releases"
    parts, as_of_ms = small_release.make_releases(root, feature_stage, once)
    small_release.make_release(*parts, root, id="elsewhere", data="another")
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(small_release.RERANKING["rules"], "safety", {"highest": "mature"})
        small_release.make_release(*parts, root, id="lax", as_of_ms=as_of_ms - 2_000)
    return root


class Tried:
    """A server in this process, whose releases are links to those that were made once."""

    def __init__(self, made: Path, folder: Path, *, serves: str, store: str | None = None) -> None:
        self.root, self.folder = folder / "releases", folder
        if not self.root.exists():
            self.root.mkdir(parents=True)
            for each in made.iterdir():
                if not each.is_symlink():
                    os.system(f"cp -r {each} {self.root}/")
            switch(self.root, serves)
        places = {"store": store or folder / "store", "served": folder / "served"}
        self.settings = Settings(releases=self.root, shadow_cpu=SHADOW_CPU, **places)
        self.served = ServedApp(self.settings)
        self.api = Api(self.served.app)
        self.state = self.served.app.state

    def admin(self, path: str, **body) -> httpx.Response:
        return self.api("POST", f"/v1/admin/{path}", body=body)

    def slate(self, user_id: int, k: int) -> dict:
        """Ask until a busy machine is in time."""
        while (answer := self.api("POST", "/v1/recommend", body={"user_id": user_id, "k": k})).status_code == 503:
            assert answer.json()["error"]["code"] == "too_slow"
        assert answer.status_code == 200, answer.text
        return answer.json()

    def begin(self, release: str, **shares) -> None:
        answer = self.admin("canary", release=release, **shares)
        assert answer.status_code == 200, answer.text
        assert answer.json()["plan"]["release"] == release

    @property
    def canary(self):
        return self.state.serving.canary

    def until(self, holds: Callable[[], bool], within_s: float = 60.0) -> None:
        began = time.monotonic()
        while not holds():
            assert time.monotonic() - began < within_s
            time.sleep(0.02)


@pytest.fixture
def tried(made, tmp_path):
    opened = []

    def start(serves: str = "first", store: str | None = None) -> Tried:
        opened.append(Tried(made, tmp_path, serves=serves, store=store))
        return opened[-1]

    yield start
    for each in opened:
        each.served.close()


def of_arm(plan: CanaryPlan, arm: str | None) -> list[int]:
    return [user for user in VIEWERS if (plan.arm_of(user) == CHALLENGER) == (arm == CHALLENGER)]


def test_a_share_of_viewers_is_answered_by_the_challenger_until_it_is_rolled_back(tried):
    server = tried()
    server.begin("same", share=0.5)
    assert 5 < len(of_arm(HALF, CHALLENGER)) < 20
    for user in VIEWERS:
        slate = server.slate(user, k=5)
        assert slate["release"] == ("same" if user in of_arm(HALF, CHALLENGER) else "first")
        trace = server.api("GET", f"/v1/trace/{slate['request_id']}")
        assert trace.status_code == 200
    assert (
        server.api.slate(of_arm(HALF, CHALLENGER)[0], k=5, mode="auto")["release"] == "first"
    )  # a stored slate is the champion's
    ranked = server.api("POST", "/v1/rank", body={"user_id": of_arm(HALF, CHALLENGER)[0], "video_ids": ["v001", "v002"]})
    assert ranked.json()["release"] == "same"

    status = server.api("GET", "/v1/status").json()
    assert (status["release"]["id"], status["canary"]["release"], status["canary"]["share"]) == ("first", "same", 0.5)
    text = server.api("GET", "/metrics").text
    assert 'watchnext_canary_answers_total{arm="challenger",result="whole"}' in text
    assert "watchnext_canary_share 0.5" in text
    counts = server.api("GET", "/v1/admin/canary").json()["counts"]["arms"]
    assert counts["challenger"]["answers"] == counts["challenger"]["viewers"] == len(of_arm(HALF, CHALLENGER))
    assert counts["champion"]["answers"] == len(VIEWERS) - counts["challenger"]["answers"] + 1
    assert counts["challenger"]["p99_ms"] > 0

    challenger = server.canary
    rolled_back = server.admin("rollback")
    assert rolled_back.json()["serves"] == "first"
    assert {server.slate(user, k=5)["release"] for user in VIEWERS} == {"first"}  # at once
    assert server.api("GET", "/v1/status").json()["canary"] is None
    assert "rolled back by an administrator" in read_plan(server.root).ended
    left = json.loads((server.folder / "served" / "canary.json").read_text())
    assert (left["ended"], left["arms"]["challenger"]["answers"]) == (
        "rolled back by an administrator",
        len(of_arm(HALF, CHALLENGER)),
    )
    server.until(lambda: challenger.store not in server.state.serving.store.listeners)
    server.served.close()
    by_release = answers_in(server.folder / "served").group_by("release").len()
    assert dict(by_release.iter_rows())["same"] == len(of_arm(HALF, CHALLENGER))


@pytest.fixture(params=["folder", "redis"])
def place(request, tmp_path) -> Iterator[str | None]:
    if request.param == "folder":
        yield None
    else:
        with RedisServer(tmp_path / "redis") as server:
            yield server.url()


def test_a_challenger_of_another_catalogue_hears_every_event(place, tried):
    server = tried("fewer", place)
    new = sorted({f"v{i:03}" for i in range(120)} & set(video_ids(server, "first")) - set(video_ids(server, "fewer")))
    server.begin("first", share=0.5)
    plan = CanaryPlan(release="first", share=0.5)
    user, other = of_arm(plan, CHALLENGER)[0], of_arm(plan, None)[0]
    shown = [ids(server.slate(user, k=8)) for _ in range(3)]
    assert len({*shown[0], *shown[1], *shown[2]}) == 24  # each slate knows of the one before

    assert server.api.outcome(user, new[0], "of a new video", watch_ms=7_000).json()["accepted"] == 1
    assert server.api.outcome(user, new[0], "of a new video", watch_ms=7_000).json()["duplicates"] == 1
    assert server.api.outcome(other, "v001", "of an old one", watch_ms=5_000).json()["accepted"] == 1
    assert server.api.outcome(user, "no such", "unknown", watch_ms=1).status_code == 422
    canary, champion = server.canary, server.state.serving.store
    assert canary.follower.has(champion.position, 5.0)
    server.until(lambda: canary.store.position == champion.position)
    keys = [event.key for event in canary.store.journal() if event.kind == "outcome"]
    assert keys == ["of a new video", "of an old one"]
    counts = server.api("GET", "/v1/admin/canary").json()["counts"]["arms"]
    assert counts["challenger"]["watch_s_per_impression"] == pytest.approx(7.0 / 24)

    gone = [new[1], "v001"]  # the champion knows the second alone
    for video in gone:
        answer = server.api("DELETE", f"/v1/videos/{video}")
        assert (answer.status_code, answer.json()["available"]) == (200, False)
    for each in of_arm(plan, CHALLENGER):
        assert not {*gone} & {*ids(server.slate(each, k=20))}

    receipts = {each["place"]: each for each in server.api("DELETE", f"/v1/viewers/{user}").json()["receipts"]}
    # In one Redis the challenger may have followed the champion's erasure by then.
    assert receipts["store of the challenger"]["removed"]["viewers"] in ({1} if place is None else {0, 1})
    assert receipts["traces of the challenger"]["removed"]["answers"] == 4
    for store in (canary.store, champion):
        assert not store.viewer(user).any()
        assert user not in {event.user_id for event in store.journal()}

    assert server.admin("promote", release="first").json()["serves"] == "first"
    assert server.state.serving.store is canary.store  # no second one was built
    assert server.canary is None
    assert read_plan(server.root).ended.startswith("promoted")
    assert server.api.outcome(other, new[0], "later", watch_ms=5_000).json()["accepted"] == 1
    position = canary.store.position
    server.served.close()
    release = Release.load(server.root / "first")
    with closing(Store.open(place or server.folder / "store", release)) as store:
        assert store.position == position
        assert [event.key for event in store.journal() if event.kind == "outcome"] == ["of an old one", "later"]


def video_ids(server: Tried, name: str) -> list[str]:
    release = Release.load(server.root / name)
    return [release.video_ids.value(row) for row in np.flatnonzero(release.catalogue.safety == 0)]


def test_a_challenger_of_another_catalogue_that_ends_leaves_nothing(tried):
    server = tried("fewer")
    environments = sorted((server.folder / "store").glob("env-*"))
    server.begin("first", share=0.2)
    assert len([*(server.folder / "store").glob("env-*")]) == 2
    server.begin("first", share=0.5)  # a new share loads nothing
    first = server.canary
    assert first.plan.share == 0.5
    write_plan(server.root, CanaryPlan(release="first", share=0.5, ended="by another server"))
    server.until(lambda: sorted((server.folder / "store").glob("env-*")) == environments)
    assert server.canary is None
    assert not (server.folder / "store" / "taking").is_symlink()
    assert not first.follower._thread.is_alive()
    assert server.slate(101, k=5)["release"] == "fewer"
    answer = server.admin("rollback")  # there is no canary left that it could end
    assert "no release served before fewer" in answer.json()["error"]["message"]


def test_a_canary_that_cannot_be_written_down_does_not_go_on(tried, monkeypatch):
    server = tried()

    def full(root, plan):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("watchnext.serving.http.swap.canary_control.write_plan", full)
    refused = server.admin("canary", release="same", share=0.5)
    assert (refused.status_code, server.canary) == (409, None)
    assert "No space left on device" in refused.json()["error"]["message"]
    assert {server.slate(user, k=3)["release"] for user in VIEWERS} == {"first"}


def test_a_rollback_meets_a_challenger_that_is_being_loaded(tried, monkeypatch):
    server = tried("fewer")
    control = server.served._switch._canaries
    warmed = control._warmed

    def rolled_back(release, store):
        assert server.admin("rollback").json()["serves"] == "fewer"
        return warmed(release, store)

    monkeypatch.setattr(control, "_warmed", rolled_back)
    refused = server.admin("canary", release="first", share=0.5)
    assert "the canary of first was rolled back while it was loaded" in refused.json()["error"]["message"]
    assert (server.canary, read_plan(server.root)) == (None, None)
    assert len([*(server.folder / "store").glob("env-*")]) == 1
    assert server.state.serving.store.known_beside is None


def test_a_refused_plan_does_not_end_the_one_that_was_written_meanwhile(tried, monkeypatch):
    server = tried("fewer")
    control = server.served._switch._canaries
    warmed = control._warmed

    def refused(release, store):
        monkeypatch.setattr(control, "_warmed", warmed)
        write_plan(server.root, new_plan("same", share=0.5, shadow=0.0))
        raise ReleaseError("a part fails")

    monkeypatch.setattr(control, "_warmed", refused)
    write_plan(server.root, new_plan("first", share=0.5, shadow=0.0))
    server.until(lambda: server.canary is not None)
    assert (server.canary.plan.release, read_plan(server.root)) == ("same", server.canary.plan)


def test_a_link_back_to_the_release_before_is_a_rollback(tried):
    server = tried()
    assert server.admin("promote", release="same").json() == {"serves": "same", "before": "first", "loading": None}
    switch(server.root, "first")  # as `python -m watchnext.lifecycle rollback` does
    server.until(lambda: server.state.serving.release_id == "first")
    assert "no release served before first" in server.admin("rollback").json()["error"]["message"]


def test_a_promotion_is_uploaded_once_and_a_rollback_is_where_the_url_lacks_it(tried, monkeypatch):
    server, uploads, upload = tried(), [], ReleaseUrl.upload
    url = server.served._switch._url = ReleaseUrl(f"file://{server.folder}/shared")
    monkeypatch.setattr(ReleaseUrl, "upload", lambda own, folder: (uploads.append(folder.name), upload(own, folder)))
    for path, body, release in (("promote", {"release": "same"}, "same"), ("rollback", {}, "first")):
        assert server.admin(path, **body).json()["serves"] == release
        server.until(lambda name=release: (server.folder / "shared/current").exists() and url.promotion().release == name)
    assert uploads == ["same", "first"]


@pytest.mark.parametrize(
    ("release", "reason"),
    [
        ("flipped", "is damaged"),
        ("nothing", "is no release of"),
        ("first", "serves already"),
        ("elsewhere", "is of the data set another, expected tiny, that of first"),
    ],
)
def test_what_cannot_be_tried_is_refused_by_name(tried, release, reason):
    server = tried()
    refused = server.admin("canary", release=release, share=0.1)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "release_refused")
    assert reason in refused.json()["error"]["message"]
    assert read_plan(server.root) is None
    write_plan(server.root, new_plan(release, share=0.1, shadow=0.0))  # and by the file
    server.until(lambda: read_plan(server.root).ended)
    assert reason in read_plan(server.root).ended
    assert (server.slate(101, k=10)["release"], server.canary) == ("first", None)


def test_shares_out_of_bounds_and_a_damaged_plan_try_nothing(tried, caplog):
    server = tried()
    assert server.admin("canary", release="same", share=0.51).status_code == 422
    least = server.admin("canary", release="same", share=1e-17)  # of which no viewer can be
    assert "share is 1e-17, expected 0, or 1e-06 to 0.5" in least.json()["error"]["message"]
    assert "share and shadow are 0" in server.admin("canary", release="same").json()["error"]["message"]
    for content in (
        "",
        "[]",
        "{}",
        '{"release": "same", "share": NaN}',
        '{"release": "../x", "share": 0.1}',
        '{"release": "same", "share": 2}',
    ):
        (server.root / "canary.json").write_text(content)
        assert read_plan(server.root) is None
        assert "canary.json cannot be read" in caplog.text
        caplog.clear()
    time.sleep(1.2)
    assert server.canary is None


def test_a_slate_that_breaks_a_hard_rule_is_not_shown_and_ends_the_canary(tried):
    server = tried()
    mature = {*all_ids(server)} - {*video_ids(server, "first")}
    server.begin("lax", share=0.5)
    plan = CanaryPlan(release="lax", share=0.5)
    shown = [server.slate(user, k=20) for user in of_arm(plan, CHALLENGER)]
    assert all(not mature & {*ids(slate)} for slate in shown)
    assert any(slate["release"] == "first" for slate in shown)
    server.until(lambda: server.canary is None)
    assert "hard rules: safety" in read_plan(server.root).ended


@pytest.mark.parametrize("path", ["rank", "retrieve"])
def test_candidates_that_break_a_hard_rule_come_from_the_champion_and_end_the_canary(tried, path):
    server = tried()
    mature = {*all_ids(server)} - {*video_ids(server, "first")}
    server.begin("lax", share=0.5)
    user = of_arm(CanaryPlan(release="lax", share=0.5), CHALLENGER)[0]
    about = {"rank": {"video_ids": all_ids(server)}, "retrieve": {"k": 500}}[path]
    answer = server.api("POST", f"/v1/{path}", body={"user_id": user, **about}).json()
    assert answer["release"] == "first"
    assert answer["items"]
    assert not mature & {*ids(answer)}
    server.until(lambda: server.canary is None)
    assert "hard rules: safety" in read_plan(server.root).ended


def all_ids(server: Tried) -> list[str]:
    release = Release.load(server.root / "first")
    return [release.video_ids.value(row) for row in range(len(release.catalogue))]


def fails(answer):
    raise ArithmeticError("no")


FAULTS = {
    "errors": fails,
    "degraded": lambda answer: answer.__class__(**vars_of(answer) | {"degradations": (INDEX_FAILED,)}),
    "short": lambda answer: answer.__class__(
        **vars_of(answer) | {"ids": answer.ids[:0], "slate": nothing(answer.slate), "explanations": ()}
    ),
    "latency": lambda answer: time.sleep(0.4) or answer,
}


def vars_of(answer) -> dict:
    return {name: getattr(answer, name) for name in answer.__dataclass_fields__}


def nothing(slate):
    return slate.__class__(slate.picked[:0], slate.values[:0], slate.propensities[:0], order=slate.order)


@pytest.mark.parametrize("guard", FAULTS)
def test_a_broken_guard_rolls_back_by_itself_and_every_viewer_is_answered(tried, guard, monkeypatch):
    server = tried()
    server.begin("same", share=0.5)
    challenger = server.canary.recommender
    honest = challenger.recommend
    monkeypatch.setattr(challenger, "recommend", lambda request: FAULTS[guard](honest(request)))
    asked = 0
    while server.canary is not None:
        for user in VIEWERS:
            slate = server.slate(user, k=3)
            assert guard == "short" or len(slate["items"]) == 3
            asked += 1
        assert asked <= 2_000
    assert f"rolled back: {guard}: " in read_plan(server.root).ended
    assert {server.slate(user, k=3)["release"] for user in VIEWERS} == {"first"}


BROKEN_CHALLENGER = """
import time
from pathlib import Path
from watchnext.serving.funnel.recommender import Recommender

honest = Recommender.recommend
def recommend(self, request):
    fault = Path({fault!r}).read_text() if self.release.id == "same" and request.request_id != "warm" else ""
    if fault == "errors":
        raise ArithmeticError("injected")
    if fault == "latency":
        time.sleep(0.4)
    return honest(self, request)
Recommender.recommend = recommend
"""


def test_a_real_server_rolls_back_a_challenger_that_breaks_within_2000_requests(made, tmp_path):
    root, fault = tmp_path / "releases", tmp_path / "fault.txt"
    os.system(f"cp -r {made} {root}")
    switch(root, "first")
    (tmp_path / "sitecustomize.py").write_text(BROKEN_CHALLENGER.format(fault=str(fault)))  # every interpreter imports it
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    server = Server(tmp_path, releases=root, shell="uvicorn", variables={"PYTHONPATH": path})
    try:
        server.ready()
        processes = server.family()
        for name in ("errors", "latency"):
            fault.write_text("")
            write_plan(root, new_plan("same", share=0.2, shadow=0.0))
            asked_until(server, root, lambda answers: "same" in answers.values())
            fault.write_text(name)
            seen = asked_until(server, root, lambda _: read_plan(root).ended is not None)
            assert f"rolled back: {name}: " in read_plan(root).ended
            share = sum(read_plan(root).arm_of(user) == CHALLENGER for user in seen) / len(seen)
            assert 0.1 < share < 0.3
            assert set(asked_until(server, root, lambda answers: len(answers) == 100).values()) == {"first"}
        assert server.family() == processes  # nothing was started again
    finally:
        server.end()


def asked_until(server: Server, root: Path, holds: Callable[[dict[int, str]], bool]) -> dict[int, str]:
    """Ask for up to 2,000 viewers until `holds` of viewer > release that answered; each gets a whole slate.

    A busy machine may be late with any request: that is refused by name, and asked again.
    """
    answers, plan = {}, read_plan(root)
    with httpx.Client(base_url=server.url, timeout=60) as client:
        for user in range(1_000, 3_000):
            while (answer := client.post("/v1/recommend", json={"user_id": user, "k": 3})).status_code == 503:
                assert answer.json()["error"]["code"] == "too_slow"
            assert (answer.status_code, len(answer.json()["items"])) == (200, 3), answer.text
            answers[user] = answer.json()["release"]
            assert answers[user] == "first" or plan.arm_of(user) == CHALLENGER
            if holds(answers):
                return answers
    raise AssertionError(f"2,000 requests did not do: {server.log.read_text()[-3000:]}")


def test_a_challenger_whose_store_does_not_follow_is_rolled_back(tried, monkeypatch):
    server = tried("fewer")
    server.begin("first", share=0.5)
    follower = server.canary.follower
    monkeypatch.setattr(follower, "_follow", fails_to_follow)
    user = of_arm(CanaryPlan(release="first", share=0.5), CHALLENGER)[0]
    server.api.outcome(user, "v001", "1", watch_ms=5)
    assert server.slate(user, k=10)["release"] == "fewer"  # and not by one that lacks the outcome
    server.until(lambda: server.canary is None)
    assert "does not follow: OSError: no" in read_plan(server.root).ended


def fails_to_follow() -> None:
    raise OSError("no")


def test_requests_are_scored_aside_without_a_trace(tried):
    server = tried()
    server.begin("same", shadow=1.0)
    began = time.monotonic()
    journal = server.state.serving.store.position
    for user in VIEWERS:
        assert server.slate(user, k=5)["release"] == "first"
    server.until(lambda: (counts := scored(server))["scored"] + counts["dropped"] == len(VIEWERS))
    counts = scored(server)
    assert counts["scored"] > 1
    assert counts["ms"] * (counts["scored"] - 1) <= SHADOW_CPU * 1000.0 * (time.monotonic() - began)
    assert counts["failed"] == counts["degraded"] == 0
    assert counts["overlap"] > 0.9  # the impressions of these slates moved the counters of their videos
    text = server.api("GET", "/metrics").text
    assert f'watchnext_canary_answers_total{{arm="shadow",result="whole"}} {counts["scored"]:.1f}' in text
    server.state.commits.submit([]).result()
    assert server.state.serving.store.position == journal + 5 * len(VIEWERS)
    server.served.close()
    assert answers_in(server.folder / "served")["release"].unique().to_list() == ["first"]


def test_where_nothing_is_counted_meanwhile_the_same_release_scores_the_same_slates(tried):
    """The viewer's state is that of the request, counters of videos are those of its scoring; previews count nothing."""
    server = tried()
    server.begin("same", shadow=1.0)
    for number, user in enumerate(VIEWERS[:12], 1):
        server.api("POST", "/v1/recommend", body={"user_id": user, "k": 5, "preview": True}).raise_for_status()
        server.until(lambda number=number: scored(server)["scored"] == number)
    assert scored(server)["overlap"] == pytest.approx(1.0)
    assert scored(server)["score_difference"] < 1e-6


def scored(server: Tried) -> dict:
    return server.api("GET", "/v1/admin/canary").json()["counts"]["scored_aside"]


def test_a_server_that_is_killed_goes_on_with_the_canary(made, tmp_path):
    root = tmp_path / "releases"
    os.system(f"cp -r {made} {root}")
    switch(root, "fewer")
    user = of_arm(CanaryPlan(release="first", share=0.5), CHALLENGER)[0]

    def answered_by(server: Server, release: str) -> None:
        began = time.monotonic()
        while httpx.post(f"{server.url}/v1/recommend", json={"user_id": user}, timeout=60).json()["release"] != release:
            assert time.monotonic() - began < 100, server.log.read_text()
            time.sleep(0.1)

    for killed in (True, False):
        server = Server(tmp_path, releases=root, shell="uvicorn")
        try:
            server.ready()
            if killed:
                write_plan(root, new_plan("first", share=0.5, shadow=0.0))  # as the command does
            answered_by(server, "first")
            if killed:
                server.process.kill()
                server.process.wait(20)
                continue
            end_plan(root, "rolled back by a command")
            answered_by(server, "fewer")
            assert server.stop() == 0, server.log.read_text()
        finally:
            server.end()
    assert len([*(tmp_path / "store").glob("env-*")]) == 1
