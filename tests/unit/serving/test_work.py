"""The bounded pool: places are held until the work ends, not until its asker gives up."""

import asyncio
import threading

import pytest

from watchnext.serving.http.worker_pool import OverloadedError, TooSlowError, Work


@pytest.fixture
def work():
    work = Work(threads=1, waiting=1)
    yield work
    work.close()


def test_gives_what_the_call_gives(work):
    assert asyncio.run(work.run(lambda: 41 + 1, timeout_s=5)) == 42
    with pytest.raises(KeyError):
        asyncio.run(work.run(lambda: {}["absent"], timeout_s=5))


def test_refuses_what_does_not_fit_and_recovers(work):
    gate = threading.Event()

    async def crowd():
        held = [asyncio.ensure_future(work.run(gate.wait, timeout_s=10)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError, match="2 requests are at work or waiting, at most 2 may"):
            await work.run(lambda: 1, timeout_s=10)
        gate.set()
        await asyncio.gather(*held)
        return await work.run(lambda: 1, timeout_s=10)

    assert asyncio.run(crowd()) == 1
    assert work.taken == 0


def test_slow_work_holds_its_place_after_its_asker_left(work):
    gate = threading.Event()

    async def slow():
        with pytest.raises(TooSlowError, match=r"within 0\.05 s"):
            await work.run(gate.wait, timeout_s=0.05)
        assert work.taken == 1

    asyncio.run(slow())
    gate.set()
    assert asyncio.run(work.run(lambda: 7, timeout_s=5)) == 7


def test_a_waiting_call_that_is_given_up_never_runs(work):
    gate, ran = threading.Event(), []

    async def give_up():
        held = asyncio.ensure_future(work.run(gate.wait, timeout_s=10))
        await asyncio.sleep(0)
        with pytest.raises(TooSlowError):
            await work.run(lambda: ran.append(1), timeout_s=0.05)
        assert work.taken == 1
        gate.set()
        await held

    asyncio.run(give_up())
    assert ran == []
