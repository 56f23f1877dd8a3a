import threading

from watchnext.serving.funnel.refresher import Refresher


def test_refreshing_goes_on_after_a_failure_and_ends_with_close(caplog):
    calls, third = [], threading.Event()

    def refresh() -> None:
        calls.append(threading.current_thread().name)
        if len(calls) == 3:
            third.set()
        raise RuntimeError("the first one fails too")

    refresher = Refresher(refresh, every_s=0.001)
    assert third.wait(10)
    refresher.close()
    made = len(calls)
    refresher.close()
    assert made >= 3
    assert len(calls) == made
    assert set(calls) == {"refresher"}
    assert "were not refreshed" in caplog.text
