from watchnext.retrieval.sources.refreshed import EARLIER_MS, Refreshed


def counted(refresh_s: float) -> tuple[Refreshed, list[float]]:
    computed: list[float] = []

    def compute(as_of_ms: float) -> float:
        computed.append(as_of_ms)
        return as_of_ms

    return Refreshed(compute, refresh_s=refresh_s), computed


def test_a_value_stands_until_it_is_too_old_and_for_requests_that_began_just_before_it():
    value, computed = counted(60.0)
    given = [value.of(each) for each in (1e6, 1e6 + 59_999, 1e6 - EARLIER_MS, 1e6 + 60_000, 1e6 + 60_000 - EARLIER_MS - 1)]
    assert given == [1e6, 1e6, 1e6, 1e6 + 60_000, 1e6 + 60_000 - EARLIER_MS - 1]
    assert computed == [1e6, 1e6 + 60_000, 1e6 + 60_000 - EARLIER_MS - 1]


def test_no_request_computes_what_is_refreshed_in_time():
    value, computed = counted(60.0)
    for minute in range(5):
        value.refresh(1e6 + 50_000 * minute)
        value.of(1e6 + 50_000 * minute + 49_999)
    assert computed == [1e6 + 50_000 * minute for minute in range(5)]


def test_nothing_is_kept_for_no_time():
    value, computed = counted(0.0)
    assert [value.of(each) for each in (5.0, 5.0, 4.0)] == [5.0, 5.0, 4.0]
    assert len(computed) == 3
