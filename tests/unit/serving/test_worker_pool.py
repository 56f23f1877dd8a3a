"""The bounded pool: a slot is held until the call ends, not until its client gives up."""

import asyncio
import threading

import pytest

from watchnext.serving.http.worker_pool import OverloadedError, TooSlowError, WorkerPool


@pytest.fixture
def pool():
    pool = WorkerPool(threads=1, waiting=1, wait_s=20)
    yield pool
    pool.close()


def test_gives_what_the_call_gives(pool):
    assert asyncio.run(pool.run(lambda: 41 + 1, timeout_s=5)) == 42
    with pytest.raises(KeyError):
        asyncio.run(pool.run(lambda: {}["absent"], timeout_s=5))


def test_refuses_what_does_not_fit_and_recovers(pool):
    gate = threading.Event()

    async def crowd():
        held = [asyncio.ensure_future(pool.run(gate.wait, timeout_s=10)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError, match="2 requests are running or waiting, expected at most 2"):
            await pool.run(lambda: 1, timeout_s=10)
        gate.set()
        await asyncio.gather(*held)
        return await pool.run(lambda: 1, timeout_s=10)

    assert asyncio.run(crowd()) == 1
    assert pool.in_use == 0


def test_the_queue_is_closed_to_low_priority_first_and_to_high_last():
    pool, gate = WorkerPool(threads=1, waiting=4, wait_s=20), threading.Event()
    priorities = ["normal", "low", "low", "low", "normal", "low", "normal", "normal", "low", "high", "high"]

    async def crowd():
        held = []
        for priority in priorities:
            held.append(asyncio.ensure_future(pool.run(gate.wait, timeout_s=10, priority=priority)))
            await asyncio.sleep(0)
        gate.set()
        return await asyncio.gather(*held, return_exceptions=True)

    refused = [isinstance(each, OverloadedError) for each in asyncio.run(crowd())]
    pool.close()
    # One runs; of the four places low may take two, normal all, and high has one more.
    taken = [priority for priority, no in zip(priorities, refused, strict=True) if not no]
    assert taken == ["normal", "low", "low", "normal", "normal", "high"]


def test_a_queue_whose_first_call_waits_long_is_closed_by_priority():
    gate, now = threading.Event(), [100.0]
    pool = WorkerPool(threads=1, waiting=10, wait_s=4.0, clock=lambda: now[0])

    async def crowd():
        held = [asyncio.ensure_future(pool.run(gate.wait, timeout_s=10)) for _ in range(2)]
        await asyncio.sleep(0)
        refused = []
        for now[0] in (101.9, 102.1, 103.9, 104.1, 104.9, 105.1):
            refused.append([priority for priority in ("low", "normal", "high") if pool.refusal(priority)])
        gate.set()
        await asyncio.gather(*held)
        return refused, pool.refusal("low")

    low, normal, high = ["low"], ["low", "normal"], ["low", "normal", "high"]
    assert asyncio.run(crowd()) == ([[], low, low, normal, normal, high], None)
    pool.close()


def test_slow_work_holds_its_place_after_its_asker_left(pool):
    gate = threading.Event()

    async def slow():
        with pytest.raises(TooSlowError, match=r"within 0\.05 s"):
            await pool.run(gate.wait, timeout_s=0.05)
        assert pool.in_use == 1

    asyncio.run(slow())
    gate.set()
    assert asyncio.run(pool.run(lambda: 7, timeout_s=5)) == 7


def test_a_waiting_call_that_is_given_up_never_runs(pool):
    gate, ran = threading.Event(), []

    async def give_up():
        held = asyncio.ensure_future(pool.run(gate.wait, timeout_s=10))
        await asyncio.sleep(0)
        with pytest.raises(TooSlowError):
            await pool.run(lambda: ran.append(1), timeout_s=0.05)
        assert pool.in_use == 1
        gate.set()
        await held

    asyncio.run(give_up())
    assert ran == []
