"""A preview is a look at a viewer's slate that changes nothing for them."""

from api import written


def test_a_preview_is_not_recorded_and_can_be_traced(api, store, served, viewer, tmp_path):
    before = store.viewer(viewer).tobytes()
    looked = [api.slate(viewer, preview=True, surface="home") for _ in range(2)]
    written(api)
    assert store.viewer(viewer).tobytes() == before
    first, second = ([item["video_id"] for item in slate["items"]] for slate in looked)
    assert len(set(first) & set(second)) >= 5  # exploration alone differs, half a slot a slate in the mean
    assert api("GET", f"/v1/trace/{looked[0]['request_id']}").status_code == 200
    served.close()
    assert list((tmp_path / "served").rglob("*.parquet")) == []


def test_a_slate_is_recorded_without_it(api, store, viewer):
    before = store.viewer(viewer).tobytes()
    shown = [item["video_id"] for item in api.slate(viewer)["items"]]
    written(api)
    assert store.viewer(viewer).tobytes() != before
    assert not set(shown) & {item["video_id"] for item in api.slate(viewer, preview=True)["items"]}
