"""Build and search the vector index at scale: `python -m benchmarks.index --videos 1000000`.

A simulated world goes through the feature stage and trains the two towers for `--steps` batches; above a million videos the
video tower then embeds a larger world of the same tastes. Queries are held-out long views. Every search is filtered: by a
region (half of the creators are licensed there), by safety (94% are safe) and by 500 seen videos, drawn from the viewer's 3,000
nearest, where a filter costs most. `narrow` is a region of one creator in twenty.

Building uses all cores, searching one. Recall is relative to exact search under the same filters. `bytes_per_video` counts all
files; 256 B of it are the 64-wide float32 vectors of the final scores, which are mapped, and `resident_bytes` is the rest.
`build_s` covers k-means, lists and codes. `peak_mb` is the largest resident size of building and searching, mapped files
included, without the making of the vectors. `--work DIR` keeps all files. The last line is one JSON object.

`--engine milvus` builds by conf/index/milvus.yaml, in Milvus Lite as a server of its own on this machine, or in the Milvus at
WATCHNEXT_MILVUS. `build_s` then has the making of the collection, and `engine_peak_mb` is Milvus Lite's largest resident size.
"""

import argparse
import json
import multiprocessing
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

LARGEST_TRAINED = 1_000_000
K, SEEN, NEAR = 500, 500, 3_000
SEED = 0


def peak_mb() -> int:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def make_towers(work: Path, videos: int, users: int, steps: int) -> None:
    """Train towers on a world of three days, in `work`/towers: one trains, one validates, one stays unused."""
    import pytorch_lightning as pl

    from watchnext.cli import composed, instantiate
    from watchnext.data.loaders.canonical import CanonicalTables
    from watchnext.data.splits import TimeSplit
    from watchnext.data.stage import write_stage
    from watchnext.data.storage import StoredTables
    from watchnext.features.dataset.batches import FeatureSet
    from watchnext.features.dataset.build import FeatureBuilder
    from watchnext.features.dataset.labels import Labels
    from watchnext.nn.weights import written_aside
    from watchnext.schema import FeatureSchema
    from watchnext.simulator.log_files import write_world
    from watchnext.simulator.world import World

    schema = FeatureSchema.load(Path("conf/features/world.yaml"))
    if not (work / "features" / "report.json").exists():
        write_world(World(users=users, videos=videos, days=3, seed=SEED), work / "log", threads=2, quiet=True)
        write_stage(CanonicalTables(root=str(work / "log"), features="conf/features/world.yaml"), schema, work / "tables")
        builder = FeatureBuilder(schema=schema, labels=Labels(), utc_offset_h=0, regime="streaming", min_count=5)
        builder.build(StoredTables.open(work / "tables"), TimeSplit(valid_days=1, test_days=1), work / "features")
    pl.seed_everything(SEED, verbose=False)
    options = ["model=two_tower", "model.module.batch_size=1024", "model.module.learning_rate=0.005"]
    module = instantiate(composed(options).model.module)(features=FeatureSet.load(work / "features"))
    trainer = pl.Trainer(max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False,
                         enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0)  # fmt: skip
    trainer.fit(module, module.loader("train", seed=SEED))
    with written_aside(work / "towers") as folder:
        module.save(folder)


def make_catalogue(work: Path, videos: int, folder: Path) -> None:
    """Write vectors (V, D), creators (V,) and safety (V,) of a world of `videos` to `folder`, block by block."""
    import polars as pl
    import torch

    from watchnext.features.catalogue import Catalogue
    from watchnext.features.encode.pipeline import FeaturePipeline
    from watchnext.nn.weights import load_network, written_aside
    from watchnext.simulator.world import World

    pipeline = FeaturePipeline.load(work / "features" / "pipeline")
    network = load_network(work / "towers", schema=pipeline.schema, repair="rm -r towers")
    state, dimension = pipeline.schema.state, pipeline.sizes.vector - 1
    parts: list[tuple[np.ndarray, ...]] = []
    for table in World(users=1_000, videos=videos, days=3, seed=SEED).video_tables():
        frame = pl.from_arrow(table)
        of_part = Catalogue.of(frame, tags_per_video=state.tags_per_video, dimension=dimension)
        inputs = pipeline.videos(frame, of_part.vectors)
        with torch.no_grad():
            vectors = network.video({name: torch.from_numpy(values[:-1]) for name, values in inputs.items()}).numpy()
        parts.append((vectors, frame["creator_id"].to_numpy(), of_part.safety))
    with written_aside(folder) as aside:
        for name, arrays in zip(("vectors", "creators", "safety"), zip(*parts, strict=True), strict=True):
            np.save(aside / f"{name}.npy", np.concatenate(arrays))


def filters_of(catalogue: Path, random: np.random.Generator) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return name > mask (V,) of the filters, and the groups (V,) that each keeps or excludes whole."""
    safety = np.load(catalogue / "safety.npy")
    _, creators = np.unique(np.load(catalogue / "creators.npy"), return_inverse=True)
    licensed = random.random(creators.max() + 1)[creators]
    masks = {name: (licensed < part) & (safety == 0) for name, part in (("", 0.5), ("narrow_", 0.05))}
    return masks, masks[""] + masks["narrow_"].astype(np.int32)


def recipe_of(options: argparse.Namespace):
    from watchnext.cli import composed, instantiate
    from watchnext.retrieval.index.vectors import FaissRecipe

    if options.engine == "milvus":
        return instantiate(composed(["index=milvus", "index.recipe.wait_s=60"]).index.recipe)
    return FaissRecipe(factory="IVF{lists},SQ8", lists=options.lists, compared=options.compared, over=1.2)


def build(catalogue: Path, folder: Path, options: argparse.Namespace, report: Path) -> None:
    from watchnext.retrieval.index.segments import VideoIndex

    vectors, recipe = np.load(catalogue / "vectors.npy", mmap_mode="r"), recipe_of(options)
    _, groups = filters_of(catalogue, np.random.default_rng(SEED))
    began, cpu = time.perf_counter(), time.process_time()
    index = VideoIndex.build(vectors, recipe=recipe, groups=groups)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    index.save(folder)
    sizes = {path.name: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    facts = {
        "build_s": round(seconds, 1),
        "build_cpu_s": round(cpu, 1),
        "bytes_per_video": round(sum(sizes.values()) / len(index), 1),
        "resident_bytes": round((sum(sizes.values()) - sizes["vectors.npy"]) / len(index) + 4, 1),  # 4: the position of a row
        "peak_mb": peak_mb(),
    }
    report.write_text(json.dumps(facts))


def search(catalogue: Path, folder: Path, towers: Path, queries: int, report: Path) -> None:
    """Measure recall and time of every query, one at a time, on one core."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    from watchnext.retrieval.index.live import LiveIndex
    from watchnext.retrieval.index.prefilter import StaticMask
    from watchnext.retrieval.index.segments import VideoIndex

    vectors, every = np.load(catalogue / "vectors.npy", mmap_mode="r"), np.load(towers / "queries.npy")
    chosen, random = every[:: max(len(every) // queries, 1)][:queries], np.random.default_rng(SEED)
    live = LiveIndex(VideoIndex.load(folder))
    masks, _ = filters_of(catalogue, random)
    facts = {"queries": len(chosen)} | {f"{name}kept": round(float(mask.mean()), 3) for name, mask in masks.items()}
    probes = _probes(vectors, chosen, masks, random)
    for name, mask in masks.items():
        facts |= _measured(live, chosen, StaticMask(mask), name, probes)
    facts["peak_mb"] = peak_mb()
    report.write_text(json.dumps(facts))


def _probes(vectors: np.ndarray, queries: np.ndarray, masks: dict[str, np.ndarray], random: np.random.Generator) -> list[dict]:
    """Return the seen rows of every query, and the exact result under each mask without them."""
    probes = []
    for query in queries:
        scores = vectors @ query
        seen = random.choice(np.argpartition(-scores, NEAR)[:NEAR], SEEN, replace=False)
        probe = {"seen": seen}
        for name, mask in masks.items():
            allowed = mask.copy()
            allowed[seen] = False
            rows = np.flatnonzero(allowed)
            probe[name] = rows[np.argpartition(-scores[rows], K)[:K]]
        probes.append(probe)
    return probes


def _measured(live, queries: np.ndarray, static_mask, name: str, probes: list[dict]) -> dict:
    from watchnext.retrieval.index.prefilter import PreFilter

    for query, probe in zip(queries[:20], probes, strict=False):  # compile, and fill the caches as in serving
        live.search(query[None], K, PreFilter(static_mask, probe["seen"]))
    times, cpu, hits = [], [], 0
    for query, probe in zip(queries, probes, strict=True):
        began, cpu_began = time.perf_counter(), time.thread_time()
        rows, _ = live.search(query[None], K, PreFilter(static_mask, probe["seen"]))
        cpu.append(1e3 * (time.thread_time() - cpu_began))
        times.append(1e3 * (time.perf_counter() - began))
        hits += len(np.intersect1d(rows[0], probe[name]))
    return {
        f"{name}recall@{K}": round(hits / (K * len(queries)), 5),
        f"{name}p50_ms": round(float(np.median(times)), 3),
        f"{name}p99_ms": round(float(np.quantile(times, 0.99)), 3),
        f"{name}cpu_p50_ms": round(float(np.median(cpu)), 3),
    }


def apart(function: Callable, *arguments: object) -> None:
    """Run a function in a new process, which has its own memory peak. Exits if it fails."""
    process = multiprocessing.get_context("spawn").Process(target=function, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{function.__name__} ended with {process.exitcode}")


class MilvusLite:
    """Milvus Lite as a server in a process of its own: it takes the calls of pymilvus as a cluster of Milvus does.

    Its files lie in `folder`. Raises RuntimeError with its log where it does not start.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        folder.mkdir(parents=True, exist_ok=True)
        words = ["server", "--data-dir", str(folder / "data"), "--host", "127.0.0.1", "--port", str(port)]
        with (folder / "milvus.log").open("w") as log:
            self._process = subprocess.Popen([sys.executable, "-m", "milvus_lite", *words], stdout=log, stderr=log)
        while self._process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError:
                time.sleep(0.1)
        raise RuntimeError(f"Milvus Lite ended at its start: {(folder / 'milvus.log').read_text()}")

    def __enter__(self) -> "MilvusLite":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def peak_mb(self) -> int:
        """The largest resident size of the process, which runs."""
        status = dict(line.split(":", 1) for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines())
        return round(int(status["VmHWM"].split()[0]) / 1024)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


def measured(work: Path, options: argparse.Namespace) -> dict:
    """Measure with the chosen engine; Milvus Lite is started where no other Milvus is named."""
    if options.engine == "milvus" and "WATCHNEXT_MILVUS" not in os.environ:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        with MilvusLite(work / "milvus", port) as server:
            os.environ["WATCHNEXT_MILVUS"] = server.url
            return _measured_in(work, options) | {"engine_peak_mb": server.peak_mb}
    return _measured_in(work, options)


def _measured_in(work: Path, options: argparse.Namespace) -> dict:
    catalogue, folder, report = work / f"catalogue-{options.videos}", work / "index", work / "report.json"
    if not (work / "towers").exists():
        apart(make_towers, work, min(options.videos, LARGEST_TRAINED), options.users, options.steps)
    if not catalogue.exists():
        apart(make_catalogue, work, options.videos, catalogue)
    apart(build, catalogue, folder, options, report)
    facts = json.loads(report.read_text())
    os.environ["OMP_NUM_THREADS"] = "1"
    apart(search, catalogue, folder, work / "towers", options.queries, report)
    searched = json.loads(report.read_text())
    searched["peak_mb"] = max(facts.pop("peak_mb"), searched.pop("peak_mb"))
    names = ("lists", "compared") if options.engine == "faiss" else ("engine",)
    return {"videos": options.videos} | {name: getattr(options, name) for name in names} | searched | facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=1_000_000)
    parser.add_argument("--users", type=int, default=150_000)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--lists", type=int, default=2048)
    parser.add_argument("--compared", type=int, default=12_000)
    parser.add_argument("--engine", choices=("faiss", "milvus"), default="faiss")
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    if options.work is not None:
        options.work.mkdir(parents=True, exist_ok=True)
        print(json.dumps(measured(options.work, options)))
        return
    with TemporaryDirectory(prefix="watchnext-benchmark-", dir=".") as folder:
        print(json.dumps(measured(Path(folder), options)))


if __name__ == "__main__":
    main()
