"""Ten times the load that a server can answer: it sheds the rest early, and answers as before once the load ends."""

import time

import httpx
import pytest
from tests.faults.overload import Answers, offered
from tests.unit.serving.bento_server import Server

SEED = 43
MUCH = 1e6  # requests a second: each connection asks as soon as it is answered


def goodput(answers: Answers, seconds: float) -> float:
    return len(answers.slate_s) / seconds


@pytest.mark.full
@pytest.mark.parametrize("shell", ["uvicorn", "bentoml"])
def test_ten_times_the_load_keeps_most_of_the_goodput(release, tmp_path, shell):
    print(f"seed {SEED}")
    server = Server(tmp_path, releases=release.folder.parent, shell=shell)
    try:
        server.ready()
        gone, seconds = release.video_ids.value(5), 8.0
        assert httpx.delete(f"{server.url}/v1/videos/{gone}").status_code == 200
        offered(server.port, connections=4, per_s=MUCH, seconds=3.0, seed=SEED)  # warms
        peaks = [goodput(offered(server.port, connections=n, per_s=MUCH, seconds=seconds, seed=SEED), seconds) for n in (4, 16)]
        peak = max(peaks)
        during = offered(server.port, connections=400, per_s=10 * peak, seconds=seconds, seed=SEED)
        recovered_s, began = None, time.monotonic()
        while recovered_s is None and time.monotonic() - began < 10:
            after = offered(server.port, connections=4, per_s=peak / 2, seconds=1.0, seed=SEED)
            if set(after.statuses) == {200} and sorted(after.slate_s)[len(after.slate_s) // 2] < 0.5:
                recovered_s = time.monotonic() - began
        sent, kept = sum(during.statuses.values()) / seconds, goodput(during, seconds) / peak
        print(f"peak {peak:.0f}/s, {sent:.0f}/s answered under ten times, goodput {kept:.0%}, recovered in {recovered_s} s")
        print(dict(during.statuses), f"p99 {1000 * sorted(during.slate_s)[int(0.99 * len(during.slate_s))]:.0f} ms")
        assert set(during.statuses) <= {200, "overloaded", "too_slow", "connections"}
        assert kept >= 0.8
        assert recovered_s is not None
        assert gone not in during.shown
        assert server.stop() == 0
    finally:
        server.end()
