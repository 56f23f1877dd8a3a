"""A preview is a look at a viewer's slate that changes nothing for them."""

import uuid

from api import written


def test_a_preview_is_not_recorded_and_can_be_traced(api, store, served, viewer, tmp_path, monkeypatch):
    named = map(uuid.UUID, map("{:032x}".format, range(100)))  # exploration draws by the id of the request
    monkeypatch.setattr(uuid, "uuid4", named.__next__)
    before = store.viewer(viewer).tobytes()
    looked = [api.slate(viewer, preview=True, surface="home") for _ in range(2)]
    written(api)
    assert store.viewer(viewer).tobytes() == before
    first, second = ([item["video_id"] for item in slate["items"]] for slate in looked)
    assert len(set(first) & set(second)) >= 8  # exploration alone differs
    assert api("GET", f"/v1/trace/{looked[0]['request_id']}").status_code == 200
    served.close()
    assert list((tmp_path / "served").rglob("*.parquet")) == []


def test_a_slate_is_recorded_without_it(api, store, viewer):
    before = store.viewer(viewer).tobytes()
    shown = [item["video_id"] for item in api.slate(viewer)["items"]]
    written(api)
    assert store.viewer(viewer).tobytes() != before
    assert not set(shown) & {item["video_id"] for item in api.slate(viewer, preview=True)["items"]}
