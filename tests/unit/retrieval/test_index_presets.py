"""Every file of conf/index builds an index that its own guard lets pass, and that comes back from disk."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from index_data import found_share, unit

from watchnext.cli import composed, instantiate
from watchnext.retrieval.index.recall_check import Probe, RecallCheck
from watchnext.retrieval.index.segments import VideoIndex
from watchnext.retrieval.index.vectors import exact

PRESETS = sorted(path.stem for path in (Path(__file__).parents[3] / "conf" / "index").glob("*.yaml"))
CENTRES = unit(3, 60, 64)


def around(seed: int, rows: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    vectors = CENTRES[random.integers(0, 60, rows)] + 0.4 * unit(seed, rows, 64)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


VECTORS, QUERIES = around(1, 3_000), around(2, 12)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_passes_its_guard(name, request, tmp_path):
    overrides = [f"index={name}"]
    if name == "milvus":
        request.getfixturevalue("milvus")
        overrides.append("index.recipe.wait_s=60")  # Milvus Lite is slow
    options = composed(overrides).index
    index = VideoIndex.build(VECTORS, recipe=instantiate(options.recipe), precision=options.precision, towers="t")
    catalogue = SimpleNamespace(
        regions=(np.arange(3_000) % 3).astype(np.uint64),
        safety=(np.arange(3_000) % 7 == 0).astype(np.uint8),
        region_bits={"x": 1},
    )
    guard: RecallCheck = instantiate(options.guard)
    found = guard.check(index, VECTORS, catalogue, Probe(QUERIES, [np.arange(i, 3_000, 90) for i in range(12)]))
    assert all(len(recalls) == 4 for recalls in found.values())
    index.save(tmp_path)
    rows, _ = VideoIndex.load(tmp_path).search(QUERIES, guard.k)
    assert found_share(exact(VECTORS, QUERIES, guard.k)[0].tolist(), rows) >= guard.floor


def test_the_default_compares_everything():
    assert {"exact", "hnsw", "ivf_sq8", "ivf_pq", "milvus"} == set(PRESETS)
    assert composed([]).index.recipe is None
