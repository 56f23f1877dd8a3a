"""Ten times the load that a server can answer: it sheds the rest early, and answers as before once the load ends."""

import os
import time

import httpx
import psutil
import pytest
from tests.faults.overload import Answers, offered
from tests.unit.serving.bento_server import Server

SEED = 43
LEAST = 0.8  # of the peak, which is asked where other programs leave the machine alone
OTHERS = 0.1  # of its processor time that they may take
MUCH = 1e6  # requests a second: each connection asks as soon as it is answered


def goodput(answers: Answers, seconds: float) -> float:
    return len(answers.slate_s) / seconds


class Others:
    """Measure the share of the machine that processes other than the server and its clients take."""

    def __init__(self, server: Server) -> None:
        self._server, self._began = server, time.monotonic()
        self._before = self._taken_s()

    def _taken_s(self) -> float:
        every, ours = psutil.cpu_times(), [*self._server.family(), psutil.Process()]
        return sum(every) - every.idle - every.iowait - every.guest - sum(sum(each.cpu_times()[:2]) for each in ours)

    def share(self) -> float:
        return (self._taken_s() - self._before) / (time.monotonic() - self._began) / os.cpu_count()


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
        others = Others(server)
        peaks = [goodput(offered(server.port, connections=n, per_s=MUCH, seconds=seconds, seed=SEED), seconds) for n in (4, 16)]
        peak = max(peaks)
        during = offered(server.port, connections=400, per_s=10 * peak, seconds=seconds, seed=SEED)
        taken = others.share()
        recovered_s, began = None, time.monotonic()
        while recovered_s is None and time.monotonic() - began < 10:
            after = offered(server.port, connections=4, per_s=peak / 2, seconds=1.0, seed=SEED)
            if set(after.statuses) == {200} and sorted(after.slate_s)[len(after.slate_s) // 2] < 0.5:
                recovered_s = time.monotonic() - began
        assert recovered_s is not None
        sent, kept = sum(during.statuses.values()) / seconds, goodput(during, seconds) / peak
        print(f"peak {peak:.0f}/s, {sent:.0f}/s answered under ten times, goodput {kept:.0%}, recovered in {recovered_s:.1f} s")
        print(f"other programs took {taken:.0%} of the machine")
        print(dict(during.statuses), f"p99 {1000 * sorted(during.slate_s)[int(0.99 * len(during.slate_s))]:.0f} ms")
        assert set(during.statuses) <= {200, "overloaded", "too_slow", "connections"}
        assert kept >= LEAST or taken > OTHERS
        assert gone not in during.shown
        assert server.stop() == 0
    finally:
        server.end()
