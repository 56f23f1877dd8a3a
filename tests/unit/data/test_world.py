from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from watchnext.cli import composed, instantiate
from watchnext.data.loaders.canonical import CanonicalTables
from watchnext.data.tables import OUTCOMES
from watchnext.data.validation import validate
from watchnext.schema import FeatureSchema
from watchnext.simulator.behaviour import DAY_MS, HOUR_MS
from watchnext.simulator.log_files import write_world
from watchnext.simulator.log_stream import OF_REQUESTS
from watchnext.simulator.mechanisms import Mechanisms, examination
from watchnext.simulator.platform.inventory import empty_inventory, fill_inventory, latest_into
from watchnext.simulator.platform.logging_policy import Policy
from watchnext.simulator.platform.slates import FOLLOWED, UNIFORM, empty_chunk, fill_slate, new_scratch
from watchnext.simulator.population import BOTS, REGIONS
from watchnext.simulator.world import World

ROOT = Path(__file__).resolve().parents[3]
SIZES = {"users": 300, "videos": 600, "creators": 60, "tags": 15, "days": 4, "impressions_per_user_day": 12.0}
WORLDS = {
    "world": Mechanisms(),
    "still": Mechanisms(drift_days=None, watch_law="lognormal", position_law="geometric"),
    "popular": Mechanisms(match=0.6, popularity=2.2, baseline=-4.2, watch_law="skip_or_finish", position_law="cascade"),
}


@pytest.fixture(scope="module")
def world():
    return World(**SIZES, seed=5)


@pytest.fixture(scope="module")
def log(world):
    return world.log()


def drawn(world: World) -> pl.DataFrame:
    """The generator's own facts about each impression of the log, in no order."""
    frames = []
    for day in world.days_of_log(quiet=True):
        requests = dict(zip(day.requests._fields[:OF_REQUESTS], day.requests, strict=False))
        rows = np.repeat(np.arange(len(day.starts)), requests["slots"])
        slots = dict(zip(day.requests._fields[OF_REQUESTS:], day.requests[OF_REQUESTS:], strict=True))
        position = np.arange(len(rows)) - day.starts[rows]
        kept = np.isin(rows, day.order)  # others belong to the next day
        columns = {**{name: values[rows] for name, values in requests.items()}, **slots, "position": position, "request": rows}
        frames.append(pl.DataFrame(columns).filter(pl.Series(kept)).with_columns(day=pl.lit(day.day_ms)))
    return pl.concat(frames)


def truth_of_log(world: World, frame: pl.DataFrame):
    arrays = [frame[name].to_numpy() for name in ("user", "video", "time_ms")]
    followed = (frame["flags"].to_numpy() & FOLLOWED) > 0
    return world.truth(*arrays, followed=followed, session_depth=frame["depth"].to_numpy())


def test_the_same_configuration_gives_the_same_log_and_another_seed_another(world, log):
    again = World(**SIZES, seed=5).log()
    assert again.impressions.equals(log.impressions)
    assert again.videos.equals(log.videos)
    assert again.users.equals(log.users)
    world.step(0, np.arange(6), world.start_ms, "home")
    assert world.log().impressions.equals(log.impressions)
    assert not World(**SIZES, seed=6).log().impressions.equals(log.impressions)


def test_files_are_the_same_bytes_on_any_number_of_threads_and_hold_the_log(world, log, tmp_path, monkeypatch):
    counts = [write_world(world, tmp_path / "one", threads=1, quiet=True)]
    monkeypatch.setattr("watchnext.simulator.log_stream.VIEWERS", 37)
    monkeypatch.setattr("watchnext.simulator.log_stream.GROUP", 100)  # requests in a row group
    counts.append(write_world(world, tmp_path / "two", threads=3, quiet=True))
    assert counts == [len(log.impressions)] * 2
    monkeypatch.undo()
    monkeypatch.setattr("watchnext.simulator.log_stream.VIEWERS", 64)
    write_world(world, tmp_path / "two", threads=2, quiet=True)  # in the place of the other
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.parquet"))
    assert [str(file) for file in files[:2]] == [f"impressions/date=2025-03-1{day}/part-0.parquet" for day in (0, 1)]
    assert files == sorted(path.relative_to(tmp_path / "two") for path in (tmp_path / "two").rglob("*.parquet"))
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file
    read = CanonicalTables(root=str(tmp_path / "one")).read()
    for table in ("impressions", "users", "videos"):
        assert getattr(read.tables, table).equals(getattr(log, table)), table


def test_the_log_is_canonical_and_sound(log):
    schema = FeatureSchema.load(ROOT / "conf" / "features" / "world.yaml")
    result = validate(log, schema)
    assert (result.rejected.height, dict(result.filled)) == (0, {})
    assert result.tables.impressions.equals(log.impressions)


def test_the_log_is_in_order_and_slates_have_six_to_ten_places_from_the_top(log):
    impressions = log.impressions
    assert impressions.equals(impressions.sort("time_ms", "request_id", "position"))
    assert impressions["request_id"].unique().sort().to_list() == list(range(1, impressions["request_id"].n_unique() + 1))
    assert (impressions["day"] == pl.from_epoch(impressions["time_ms"], "ms").cast(pl.Date)).all()
    slates = impressions.group_by("request_id", maintain_order=True).agg("position", "user_id", "time_ms", "video_id")
    for positions, users, times, videos in slates.select("position", "user_id", "time_ms", "video_id").iter_rows():
        assert positions == list(range(len(positions)))
        assert 6 <= len(positions) <= 10
        assert (len(set(users)), len(set(times)), len(set(videos))) == (1, 1, len(videos))


def test_only_what_may_be_shown_is_shown(log):
    shown = log.impressions.join(log.videos, on="video_id").join(log.users, on="user_id")
    assert (shown["time_ms"] >= shown["upload_ms"]).all()
    assert "unsafe" in log.videos["safety"]
    assert "unsafe" not in shown["safety"]
    limited = shown.filter(pl.col("regions").is_not_null())
    assert limited.height > 0
    assert limited.select(pl.col("regions").list.contains(pl.col("region"))).to_series().all()


def test_nothing_comes_back_while_it_is_among_the_last_seen(log):
    for videos in log.impressions.group_by("user_id").agg("video_id")["video_id"].to_list():
        last: dict[int, int] = {}
        for place, video in enumerate(videos):
            assert place - last.get(video, -1000) > Policy().seen - 10
            last[video] = place


def test_some_videos_copy_others_under_one_fingerprint(log):
    copies = (
        log.videos.group_by("fingerprint").agg("duration_ms", "upload_ms", "vector").filter(pl.col("upload_ms").list.len() > 1)
    )
    assert copies.height > 5
    assert copies["duration_ms"].list.n_unique().max() == 1
    assert copies["upload_ms"].list.n_unique().min() > 1
    pairs = [[v for v in vectors if v is not None] for vectors in copies["vector"].to_list()]
    alike = [np.corrcoef(pair[0], pair[1])[0, 1] for pair in pairs if len(pair) > 1]
    assert np.mean(alike) > 0.6
    assert 0.02 < log.videos["vector"].null_count() / log.videos.height < 0.16


def test_uploads_go_on_and_popularity_rises_and_dies(world, log):
    assert 0.4 < (log.videos["upload_ms"] >= world.start_ms).mean() < 0.6
    video = int(world.catalogue["buzz"].argmax())
    peak_h, uploaded = float(world.catalogue["peak_h"][video]), int(world.catalogue["upload_ms"][video])
    before, rising, peak, gone = (
        world.popularity(video, uploaded + int(h * HOUR_MS)) for h in (-5, peak_h / 3, peak_h, 30 * peak_h)
    )
    assert before == pytest.approx(float(gone), abs=1e-3)
    assert before < rising < peak
    assert peak - before == pytest.approx(world.catalogue["buzz"][video], rel=1e-6)


def test_days_and_weeks_have_a_rhythm():
    world = World(users=4000, videos=300, tags=6, days=7, impressions_per_user_day=4.0)
    requests = [world.days_of_log(quiet=True)]
    by_day = [len(day.order) for day in requests[0]]
    assert min(by_day[5:]) > 1.1 * max(by_day[:4])  # a weekend after Monday to Thursday
    impressions = world.log().impressions.join(world.log().users, on="user_id").filter(region="us")
    hours = np.bincount((impressions["time_ms"] // HOUR_MS % 24).to_numpy(), minlength=24)
    assert hours[[8, 9, 10, 11]].sum() < 0.5 * hours[[1, 2, 3, 4]].sum()  # 2 to 5, and 19 to 22, six hours behind UTC


def test_sessions_have_several_requests_and_end_sooner_after_a_bad_slate(world):
    frame = drawn(world)
    requests = frame.group_by("user", "time_ms").agg(pl.col("depth").first(), good=(pl.col("flags") & 2 > 0).mean())
    requests = requests.sort("user", "time_ms").with_columns(
        went_on=(pl.col("depth").shift(-1).over("user") > pl.col("depth")).fill_null(False),
        gap_ms=pl.col("time_ms").shift(-1).over("user") - pl.col("time_ms"),
    )
    assert 1.8 < requests.height / requests.filter(pl.col("depth") == 0).height < 4
    kept = [requests.filter(one)["went_on"].mean() for one in (pl.col("good") < 0.2, pl.col("good") > 0.5)]
    assert kept[0] < kept[1] - 0.1
    gaps = requests.filter("went_on")["gap_ms"] / 1000
    assert gaps.min() > 2
    assert 30 < gaps.median() < 600


def test_tastes_turn_but_not_at_once_and_in_the_still_world_never(world):
    users = np.arange(SIZES["users"])
    first, soon, late = (world.taste(users, world.start_ms + int(days * DAY_MS)) for days in (0, 0.1, 15))
    assert (first * soon).sum(1).min() > 0.9
    assert (first * late).sum(1).mean() < 0.8
    assert np.allclose((late**2).sum(1), 1, atol=1e-5)
    still = World(**SIZES, mechanisms=WORLDS["still"])
    assert np.array_equal(still.taste(users, still.start_ms), still.taste(users, still.start_ms + 99 * DAY_MS))


def test_bots_are_busy_and_take_everything_alike():
    world = World(users=3000, videos=400, tags=8, days=2, impressions_per_user_day=6.0)
    bot = np.flatnonzero(world.viewers["bot"])
    assert 0.3 * BOTS < len(bot) / 3000 < 3 * BOTS
    truth = (
        world.truth(bot[0], np.arange(400), world.start_ms).probability["like"]
        / world.truth(bot[0], np.arange(400), world.start_ms).probability["click"]
    )
    assert np.ptp(truth) < 1e-12
    counts = np.bincount(drawn(world)["user"].to_numpy(), minlength=3000)
    assert counts[bot].mean() > 4 * np.delete(counts, bot).mean()


def brute_force(world: World, inventory, user: int, uniform: bool, seen: list[int], latest: list[int], share: np.ndarray):
    """Probability of every video for the first slot, from the definition."""
    videos, region = world.catalogue, int(world.viewers["region"][user])
    may = (videos["safety"] != 2) & (videos["upload_ms"] <= inventory.since_ms[0]) & ((videos["allowed"] >> region) & 1 == 1)
    q = may / may.sum()
    if not uniform:
        popular = np.exp(world.policy.popularity * world.popularity(np.arange(len(videos)), int(inventory.since_ms[0]))) * may
        held = np.bincount(videos["tags"][:, 0], popular, len(share))
        chosen = np.where(held > 0, share, 0) / share[held > 0].sum()
        followed = np.isin(np.arange(len(videos)), latest) * 0.08 / max(len(latest), 1)
        rest = 1 - world.policy.explore - (0.08 if latest else 0)
        q = world.policy.explore * q + followed + rest * chosen[videos["tags"][:, 0]] * popular / held[videos["tags"][:, 0]]
    q[seen] = 0
    return q / q.sum()


@pytest.mark.parametrize("uniform", [False, True])
def test_propensities_are_the_chances_by_definition_and_the_frequencies_of_the_draws(uniform):
    world = World(users=40, videos=60, creators=6, tags=4, days=2, policy=Policy(seen=8), seed=3)
    platform, memory, time_ms = world._platform, world._fresh_memory(), world.start_ms + DAY_MS
    inventory = empty_inventory(platform.index, world.catalogue, 1)
    fill_inventory(inventory, 0, platform.index, world.catalogue, time_ms, world.policy.popularity)
    user = int(np.flatnonzero(memory.follows_at > 1)[0])
    scratch, out, n = new_scratch(4), empty_chunk(2), 60_000
    scratch.stream[0], scratch.blur[:] = 11, 0.1
    kind = UNIFORM * uniform
    fill_slate(platform, inventory, memory, scratch, user, time_ms, 0, kind, 3, out, 0)
    seen = out.video[:3].tolist()  # some that may not come again
    memory.seen[user, :3] = seen
    region = int(world.viewers["region"][user])
    count = latest_into(scratch.latest, platform.index, world.catalogue, memory.follows[user], region, time_ms)
    latest = scratch.latest[:count].tolist()
    assert len(latest) > 2
    taste = world.taste(user, time_ms - DAY_MS) + scratch.blur
    share = np.exp(world.policy.home * (taste @ platform.directions))
    expected = brute_force(world, inventory, user, uniform, seen, latest, share)
    first, second = Counter(), Counter()
    top = int(expected.argmax())
    for _ in range(n):
        fill_slate(platform, inventory, memory, scratch, user, time_ms, 0, kind, 2, out, 0)
        a, b = out.video[:2].tolist()
        first[a] += 1
        assert out.propensity[0] == pytest.approx(expected[a], rel=1e-4)
        if a == top:
            second[b] += 1
            assert out.propensity[1] == pytest.approx(expected[b] / (1 - expected[a]), rel=1e-4)
    assert chi_square(first, expected, n) < 4
    without = np.where(np.arange(60) == top, 0, expected)
    assert chi_square(second, without / without.sum(), sum(second.values())) < 4


def chi_square(found: Counter, expected: np.ndarray, n: int) -> float:
    """Standard deviations above what chance explains (Wilson and Hilferty, 1931)."""
    assert all(expected[video] > 0 for video in found)
    likely = np.flatnonzero(expected * n > 5)
    statistic = sum((found[int(v)] - n * expected[v]) ** 2 / (n * expected[v]) for v in likely)
    degrees = len(likely) - 1
    return ((statistic / degrees) ** (1 / 3) - 1 + 2 / (9 * degrees)) / np.sqrt(2 / (9 * degrees))


def test_propensities_of_a_log_are_right_on_average(log):
    """Random requests take all that may be shown alike: 1 / propensity counts it."""
    random = log.impressions.filter(policy="random")
    assert 0.01 < random.height / log.impressions.height < 0.08
    assert (1 / random["propensity"]).max() < SIZES["videos"]
    by_position = random.filter(pl.col("request_id") == random["request_id"][0]).sort("position")
    left = (1 / by_position["propensity"]).round().to_list()
    assert left == list(range(int(left[0]), int(left[0]) - len(left), -1))  # one less to choose from with every place


def test_a_cluster_that_holds_nothing_and_a_catalogue_that_runs_out():
    world = World(users=30, videos=12, creators=3, tags=9, days=2, impressions_per_user_day=30.0, policy=Policy(seen=6))
    impressions = world.log().impressions
    assert impressions.height > 100
    assert impressions["propensity"].is_between(0, 1).all()
    assert impressions.group_by("request_id").agg(pl.col("video_id").is_duplicated().any())["video_id"].not_().all()


@pytest.mark.parametrize("name", WORLDS)
def test_the_truth_is_what_happens_in_the_log(name):
    world = World(**{**SIZES, "users": 1500}, mechanisms=WORLDS[name], seed=8)
    frame = drawn(world)
    truth = truth_of_log(world, frame)
    looked = examined(world, frame, truth.probability["long_view"])
    for i, outcome in enumerate(OUTCOMES):
        expected, found = truth.probability[outcome] * looked, (frame["flags"].to_numpy() >> i) & 1
        error = np.sqrt((expected * (1 - expected)).sum())  # of the count, were the truth right; requests make it larger
        assert abs(found.sum() - expected.sum()) < 5 * error, outcome
    surprise = frame["watch_ms"].to_numpy() - truth.watch_ms * looked
    assert abs(surprise.mean()) < 4 * surprise.std() / np.sqrt(len(surprise))


def examined(world: World, frame: pl.DataFrame, long_view: np.ndarray) -> np.ndarray:
    """Probability that each row is looked at, given the slate above it."""
    starts, surface = np.flatnonzero(frame["position"].to_numpy() == 0), frame["kind"].to_numpy() & 1
    looked = np.empty(frame.height)
    for start, end in zip(starts, [*starts[1:], frame.height], strict=True):
        looked[start:end] = world.examination(long_view[start:end], ("home", "discover")[surface[start]])
    return looked


@pytest.mark.parametrize("name", WORLDS)
def test_steps_draw_by_the_truth_and_by_position(name):
    world = World(**SIZES, mechanisms=WORLDS[name], seed=5)
    n, time_ms, slate, user = 12_000, world.start_ms + DAY_MS, np.array([11, 40, 333]), 7
    world._memory.follows[user, 0] = world.catalogue["creator"][40]
    truth = world.truth(user, slate, time_ms, session_depth=8)
    looked = world.examination(truth.probability["long_view"], "discover")
    steps = [world.step(user, slate, time_ms, "discover", session_depth=8) for _ in range(n)]
    for outcome in ("click", "long_view", "hide", "like"):
        rate = np.mean([step.masks[outcome] for step in steps], axis=0)
        expected = truth.probability[outcome] * looked
        assert rate == pytest.approx(expected, abs=4.5 * np.sqrt(expected.max() / n)), outcome
    watched = np.array([step.watch_ms for step in steps])
    assert watched.mean(0) == pytest.approx(truth.watch_ms * looked, abs=(4.5 * watched.std(0) / np.sqrt(n)).max())
    assert all((step.received_ms >= time_ms + step.watch_ms.cumsum()).all() for step in steps[:50])


def test_a_step_refuses_a_surface_that_is_none_and_follows_stay():
    world = World(**SIZES, seed=5)
    with pytest.raises(ValueError, match="surface is 'hme', expected one of home, discover"):
        world.step(3, np.arange(3), world.start_ms, "hme")
    creator = world.catalogue["creator"]
    for _ in range(3000):
        followed = world.step(3, np.arange(40), world.start_ms, "home").masks["follow"]
        if followed.any():
            break
    video = int(np.flatnonzero(followed)[0])
    assert creator[video] in world._memory.follows[3]
    assert world.truth(3, video, world.start_ms).probability["follow"] == 0
    before = world.truth(3, video, world.start_ms, followed=False)
    assert world.truth(3, video, world.start_ms).watch_ms > before.watch_ms


def test_truth_broadcasts_and_answers_one_by_one_alike(world):
    users, videos = np.arange(4)[:, None], np.arange(20).reshape(4, 5)
    times = world.start_ms + np.arange(4)[:, None] * DAY_MS // 3
    together = world.truth(users, videos, times)
    alone = world.truth(2, int(videos[2, 3]), int(times[2, 0]))
    assert together.watch_ms.shape == (4, 5)
    assert together.watch_ms[2, 3] == alone.watch_ms
    assert together.probability["like"][2, 3] == alone.probability["like"]
    tired = world.truth(users, videos, times, session_depth=60)
    assert (tired.watch_ms < together.watch_ms)[~world.viewers["bot"][:4]].all()


def test_position_laws_by_hand():
    long_view = np.array([0.5, 0.2, 0.9])
    assert examination("power", "discover", long_view) == pytest.approx([1, 2**-0.1, 3**-0.1])
    assert examination("geometric", "home", long_view) == pytest.approx([1, 0.98, 0.98**2])
    first = 0.5 * 0.93 + 0.5 * 0.97
    assert examination("cascade", "home", long_view) == pytest.approx([1, first, first * (0.2 * 0.93 + 0.8 * 0.97)])


def test_the_three_presets_are_three_worlds():
    worlds = {}
    for name in ("world", "world_still", "world_popular"):
        config = composed(
            [f"data={name}", "data.loader.users=200", "data.loader.videos=300", "data.loader.days=2"], ROOT / "conf"
        )
        assert config.data.name == name
        worlds[name] = instantiate(config.data.loader)
    laws = {
        (world.mechanisms.watch_law, world.mechanisms.position_law, world.mechanisms.drift_days) for world in worlds.values()
    }
    assert len(laws) == 3
    rates = {name: world.log().impressions["long_view"].mean() for name, world in worlds.items()}
    assert all(0.15 < rate < 0.55 for rate in rates.values()), rates


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start_ms": 1_741_564_800_001}, "expected a midnight UTC"),
        ({"users": 0}, "users=0 videos=4000"),
    ],
)
def test_a_world_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        World(**arguments)


def test_a_law_that_is_none_is_named():
    with pytest.raises(ValueError, match="watch_law is 'normal', expected one of logit_logistic"):
        Mechanisms(watch_law="normal")
    with pytest.raises(ValueError, match="refresh_h 5; expected"):
        Policy(refresh_h=5)


def test_regions_are_those_of_the_table(log):
    assert set(log.users["region"]) == set(REGIONS)
