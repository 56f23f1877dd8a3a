"""A release: everything that a server needs, built together, in one folder that is written once and never edited.

`releases/<id>/manifest.json` has a sha256 for every file; `releases/current` is a link to the release that serves.
"""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path

import numpy as np

from watchnext.features import video_texts
from watchnext.features.arrays import load_arrays
from watchnext.features.catalogue import Catalogue, Ids
from watchnext.features.encode.pipeline import FeaturePipeline
from watchnext.features.state.fold import Layout, State
from watchnext.features.state.seen import SeenSets
from watchnext.features.state.snapshots import SEEN, Snapshots
from watchnext.features.video_texts import VideoTexts
from watchnext.files import files_below, link, sha256_of, synced, synced_below
from watchnext.ranking.calibration.calibration import Calibration
from watchnext.ranking.models.trees.engage import Engage
from watchnext.ranking.models.trees.forest import Splits
from watchnext.reranking.slate import Reranker
from watchnext.reranking.value import RerankingError
from watchnext.retrieval.index.segments import VideoIndex
from watchnext.retrieval.index.vectors import VideoIndexError
from watchnext.retrieval.sources.graph import Edges
from watchnext.retrieval.sources.trending import TrendingCounts
from watchnext.serving.release.compiled import TREES, CompiledNetwork, CompiledRanker
from watchnext.serving.release.manifest import CLOCKS, NAME, REPAIR, SEAL, ReleaseError, digest_of, verified
from watchnext.serving.release.surfaces import Surfaces

# Keys of the manifest that the caller of `publish` gives; `publish` adds the others.
GIVEN_KEYS = ("data", "regime", "as_of_ms", "clock", "towers")
OPTIONAL_KEYS = ("id", "evaluated")
CO_WATCH_SOURCES = ("related", "transitions")  # each has a graph of this name
VIDEO_TOWER = "graphs/video_tower.xml"
EDGES = ("starts", "neighbours", "weights")
FEATURE_PARTS = ("pipeline", "catalogue", "users", "user_table", "videos")


@dataclass(frozen=True)
class Release:
    """One verified release, loaded. Arrays are mapped read-only, except those that rules read at every request."""

    folder: Path
    manifest: Mapping
    pipeline: FeaturePipeline
    catalogue: Catalogue
    texts: VideoTexts  # empty where the log has none
    users: Mapping[str, np.ndarray]
    videos: Mapping[str, np.ndarray]
    user_ids: Ids
    user_regions: np.ndarray
    video_ids: Ids
    state: State
    seen: SeenSets
    query_tower: CompiledNetwork
    video_tower: CompiledNetwork | None  # None: an older release; what is posted is then in no vector search
    ranker: CompiledRanker | None  # None: the release answers in retrieval order
    calibration: Calibration
    engage: Engage | None  # how likely a watch is; None where too little was watched to fit it
    index: VideoIndex
    co_watches: Mapping[str, Edges]
    trending: TrendingCounts
    reranker: Reranker
    retrieval: Mapping
    surfaces: Surfaces = field(default_factory=Surfaces)

    @classmethod
    def load(cls, folder: Path) -> "Release":
        """Verify every byte, then load.

        Raises ReleaseError naming the file that is damaged, missing or not in the manifest, or the part that a release of
        another version lacks.
        """
        folder = Path(folder).resolve()
        manifest = verified(folder)
        _require_parts(folder, manifest)
        pipeline, catalogue = FeaturePipeline.load(folder / "pipeline"), Catalogue.load(folder / "catalogue")
        user_table = load_arrays(folder / "user_table")
        state = State(**load_arrays(folder / "state"))
        counted = {name: load_arrays(folder / name) for name in (*CO_WATCH_SOURCES, "trending")}
        release = cls(
            folder=folder,
            manifest=manifest,
            pipeline=pipeline,
            catalogue=catalogue,
            texts=VideoTexts.load(folder / video_texts.FOLDER),
            users=load_arrays(folder / "users"),
            videos=load_arrays(folder / "videos"),
            user_ids=Ids(user_table["user_ids"]),
            user_regions=user_table["regions"],
            video_ids=Ids(catalogue.video_ids),
            state=state,
            seen=_seen_of(folder, state, Layout.of(pipeline.schema.state)),
            query_tower=CompiledNetwork(folder / "graphs" / "query_tower.xml", many=True),
            video_tower=CompiledNetwork(folder / VIDEO_TOWER) if VIDEO_TOWER in manifest["files"] else None,
            ranker=CompiledRanker.load(folder / "graphs") if "graphs/ranker.xml" in manifest["files"] else None,
            calibration=Calibration.load(folder / "calibration"),
            engage=Engage.load(folder / "engage") if (folder / "engage").exists() else None,
            index=_index_of(folder),
            co_watches={
                name: Edges(*(arrays[part] for part in EDGES)) for name, arrays in counted.items() if name in CO_WATCH_SOURCES
            },
            trending=TrendingCounts(**{each.name: counted["trending"][each.name] for each in fields(TrendingCounts)}),
            reranker=_reranker_of(folder),
            retrieval=json.loads((folder / "retrieval.json").read_text()),
            surfaces=_surfaces_of(folder),
        )
        release.surfaces.require(release.reranker, release.retrieval)
        release._require_one_build({name: str(arrays["catalogue"][0]) for name, arrays in counted.items()})
        return release

    def reranker_of(self, surface: str | None) -> Reranker:
        """Return the re-ranker of a surface: its own where it has one, else the release's."""
        return self._by_surface[surface][0] if surface in self._by_surface else self.reranker

    def retrieval_of(self, surface: str | None) -> Mapping:
        """Return the settings of retrieval of a surface, as `reranker_of` does."""
        return self._by_surface[surface][1] if surface in self._by_surface else self.retrieval

    @cached_property
    def _by_surface(self) -> Mapping[str, tuple[Reranker, Mapping]]:
        return {
            surface: (self.surfaces.reranker(surface, self.reranker), self.surfaces.retrieval(surface, self.retrieval))
            for surface in self.surfaces.overrides
        }

    def _require_one_build(self, counted_for: Mapping[str, str]) -> None:
        """Raise ReleaseError for parts of different builds, which would give wrong answers without an error.

        `counted_for` is the catalogue fingerprint of each part that was counted from a log.
        """
        claims = (
            *((f"catalogue of `{name}`", claimed, self.catalogue.fingerprint) for name, claimed in counted_for.items()),
            ("schema", self.pipeline.schema.fingerprint, self.manifest["schema"]),
            ("state", self.state_fingerprint, self.manifest["state"]),
            ("towers of the index's vectors", self.index.towers, self.manifest.get("towers")),
            ("videos in the index", len(self.index), len(self.catalogue)),
            ("videos in the state", len(self.state.videos), len(self.catalogue)),
            ("width of a viewer's state", self.state.viewers.shape[1], self.layout.viewer),
        )
        for subject, actual, expected in claims:
            if actual != expected:
                raise ReleaseError(
                    f"{self.folder}: {subject}: {actual}, expected {expected}; not built together, run `{REPAIR}`"
                )

    @property
    def id(self) -> str:
        return self.manifest["id"]

    @property
    def as_of_ms(self) -> int:
        return self.manifest["as_of_ms"]

    @property
    def clock(self) -> str:
        return self.manifest["clock"]

    @cached_property
    def layout(self) -> Layout:
        return Layout.of(self.pipeline.schema.state)

    @cached_property
    def region_bits(self) -> dict[str, int]:
        return self.catalogue.region_bits

    @cached_property
    def state_fingerprint(self) -> str:
        return state_fingerprint(self.pipeline, self.catalogue)


def _reranker_of(folder: Path) -> Reranker:
    """Load the re-ranker; a release of a version that had a sliding window names its length, which no other method reads."""
    config = json.loads((folder / "reranking.json").read_text())
    config["diversity"].pop("window", None)
    return Reranker.from_config(config)


def _index_of(folder: Path) -> VideoIndex:
    """Load the index. Raises ReleaseError where it is on an engine that is not installed or does not answer."""
    try:
        return VideoIndex.load(folder / "index", verified=True)
    except VideoIndexError as error:
        raise ReleaseError(f"{folder} cannot serve: {error}") from error


def _seen_of(folder: Path, state: State, layout: Layout) -> SeenSets:
    """Load what viewers have seen; a release of a version without it has the videos that the records name."""
    path = folder / "state" / SEEN
    return SeenSets(**load_arrays(path)) if path.exists() else SeenSets.of_records(state.viewers, layout)


def _require_parts(folder: Path, manifest: Mapping) -> None:
    missing = {*FEATURE_PARTS, "state", "index", *CO_WATCH_SOURCES, "trending"} - {
        name.split("/")[0] for name in manifest["files"]
    }
    if any(name.startswith(f"graphs/{TREES}/") for name in manifest["files"]):
        missing |= {f"graphs/{TREES}/{field.name}.npy" for field in fields(Splits)} - manifest["files"].keys()
    if missing:
        raise ReleaseError(
            f"{folder} lacks {min(missing)}, as another version built it; run `{REPAIR}`, and then "
            "`python -m watchnext.lifecycle promote`"
        )


def state_fingerprint(pipeline: FeaturePipeline, catalogue: Catalogue) -> str:
    """Digest what gives the state its meaning (schema, and the rows of videos, creators and tags) to 16 hex digits."""
    digest = hashlib.sha256(pipeline.schema.fingerprint.encode())
    for array in (catalogue.video_ids, catalogue.creator_names, catalogue.tag_names):
        digest.update(f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


# ---- write -------------------------------------------------------------------------------------------------------------


def staging_folder(root: Path) -> Path:
    """Make an empty folder in `root` to assemble a release in, on the same file system."""
    folder = Path(root) / f".staging-{secrets.token_hex(8)}"  # other users could not read a folder of `tempfile`
    folder.mkdir(parents=True)
    return folder


def assemble(
    staging: Path,
    *,
    features: Path,
    query_tower: Path,
    video_tower: Path,
    ranker: Path | None,
    calibration: Path,
    engage: Engage | None,
    index: Path,
    graph: Path,
    trending: Path,
    reranking: Mapping,
    retrieval: Mapping,
    surfaces: Mapping,
    selection: Mapping,
    reference: Path | None,
) -> None:
    """Copy the parts of a release to `staging`.

    features              folder of the feature stage
    query_tower, video_tower, ranker   networks (.xml, .bin, and perhaps a folder `trees` beside); the ranker may be None
    calibration           folder; may be missing
    graph                 folder with one graph for each of CO_WATCH_SOURCES
    reranking, retrieval  settings
    surfaces              surface > overrides of these; raises RerankingError for a wrong one
    selection             report of how they were chosen, with the verdict over the baselines
    reference             folder with the sketch and a sample of held-out rows; None for a release that never serves
    """
    Surfaces(surfaces).require(own := Reranker.from_config(reranking), retrieval)
    for surface in surfaces if engage is None else ():
        if power := Surfaces(surfaces).reranker(surface, own).value.engage:
            raise RerankingError(
                f"surfaces.{surface}.reranking.value.engage is {power:g}, but too little was watched on the validation days to "
                "fit how likely a watch is; leave it out, or give more validation days (data.split.valid_days)"
            )
    for part in FEATURE_PARTS:
        _copy(Path(features) / part, staging / part)
    schema = FeaturePipeline.load(staging / "pipeline").schema
    Snapshots.load_as_of(Path(features) / "state", Layout.of(schema.state)).write(staging / "state")
    if (texts := Path(features) / video_texts.FOLDER).exists():
        _copy(texts, staging / video_texts.FOLDER)
    if Path(calibration).exists():
        _copy(calibration, staging / "calibration")
    if engage:
        engage.save(staging / "engage")
    folders = {"index": Path(index), "trending": Path(trending)} | {name: Path(graph) / name for name in CO_WATCH_SOURCES}
    for name, folder in folders.items():
        _copy(folder, staging / name)
    (staging / "graphs").mkdir()
    for name, network in (("query_tower", query_tower), ("video_tower", video_tower), ("ranker", ranker)):
        for suffix in (".xml", ".bin") if network else ():
            shutil.copyfile(Path(network).with_suffix(suffix), staging / "graphs" / f"{name}{suffix}")
    if ranker and (trees := Path(ranker).with_name(TREES)).exists():
        _copy(trees, staging / "graphs" / TREES)
    if reference:
        _copy(reference, staging / "reference")
    settings = {"reranking": reranking, "retrieval": retrieval, "selection": selection}
    for name, each in (settings | ({"surfaces": surfaces} if surfaces else {})).items():
        (staging / f"{name}.json").write_text(json.dumps(each, indent=1))


def _surfaces_of(folder: Path) -> Surfaces:
    """Return the settings of surfaces, none where the release has no such file."""
    path = folder / "surfaces.json"
    return Surfaces(json.loads(path.read_text())) if path.exists() else Surfaces()


def verdict_of(folder: Path) -> Mapping[str, str]:
    """Return baseline > depths at which the slate of the release in `folder` lost to it on the validation days."""
    path = Path(folder) / "selection.json"
    return json.loads(path.read_text()).get("verdict", {}) if path.exists() else {}


def _copy(folder: Path, to: Path) -> None:
    """Copy all files of a folder under the umask; `shutil.copytree` would copy the modes of folders."""
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"{folder} is missing; run `dvc repro`")
    for name in files_below(Path(folder), but=""):
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(folder) / name, to / name)


def publish(staging: Path, root: Path, manifest: Mapping) -> Path:
    """Seal `staging` (in `root`) and rename it to `root/<id>`; return that folder. The same release again changes nothing.

    `manifest` has GIVEN_KEYS and perhaps `id`; without it, the id follows from the content. A release that has learned from all
    days names in `evaluated` the one with the same settings that was measured on held-out days. Raises ReleaseError for an id
    that exists with other content.
    """
    sealed = _sealed(staging, manifest)
    (staging / SEAL).write_text(json.dumps(sealed, indent=1))
    target = Path(root) / sealed["id"]
    if target.exists():
        if verified(target)["files"] != sealed["files"]:
            raise ReleaseError(f"{target} exists with other content; releases are never edited: choose another id")
        shutil.rmtree(staging)
        return target
    synced_below(staging)
    os.rename(staging, target)
    synced(Path(root))
    return target


def _sealed(staging: Path, manifest: Mapping) -> dict:
    if unexpected := sorted(set(GIVEN_KEYS) ^ (manifest.keys() - {*OPTIONAL_KEYS})):
        raise ReleaseError(
            f"unknown or missing keys of the manifest: {', '.join(unexpected)}; expected {', '.join(GIVEN_KEYS)} and perhaps "
            f"{' or '.join(OPTIONAL_KEYS)}"
        )
    if manifest["clock"] not in CLOCKS:
        raise ReleaseError(f"the manifest's clock is {manifest['clock']!r}, expected one of {', '.join(CLOCKS)}")
    pipeline = FeaturePipeline.load(staging / "pipeline")
    sealed = {name: manifest[name] for name in (*GIVEN_KEYS, "evaluated") if name in manifest}
    sealed["schema"] = pipeline.schema.fingerprint
    sealed["state"] = state_fingerprint(pipeline, Catalogue.load(staging / "catalogue"))
    sealed["files"] = {name: sha256_of(staging / name) for name in files_below(staging, but=SEAL)}
    sealed["id"] = manifest.get("id") or f"{manifest['data']}-{digest_of(sealed)[:12]}"
    if not NAME.fullmatch(sealed["id"]) or sealed["id"] == "current":
        raise ReleaseError(f"the release id is {sealed['id']!r}, expected letters, digits, '.', '_' and '-', and not 'current'")
    return {**sealed, "digest": digest_of(sealed)}


# ---- which one serves --------------------------------------------------------------------------------------------------


def switch(root: Path, release_id: str) -> None:
    """Point `root/current` at the release, in one step. Raises ReleaseError if the release is missing or damaged."""
    verified(Path(root) / release_id)
    link(Path(root), "current", release_id)


def last_built(root: Path, outputs: Path) -> Path:
    """Return the folder of the release that the pipeline with these outputs built last. Raises ReleaseError."""
    path = Path(outputs) / "release.json"
    if not path.exists():
        raise ReleaseError(f"{path} is missing: no release was built yet; run `dvc repro` (or `make demo`)")
    return Path(root) / json.loads(path.read_text())["release"]


def current(root: Path) -> Path:
    """Return the folder of the release that `root/current` names. Raises ReleaseError where there is none in `root`."""
    path = Path(root) / "current"
    if not os.path.lexists(path):
        raise ReleaseError(
            f"no release serves in {root}: run `dvc repro` (or `make demo`), or let one serve with "
            "`python -m watchnext.lifecycle promote`"
        )
    if not path.is_symlink():
        raise ReleaseError(f"{path} is no link, expected one to a release; `python -m watchnext.lifecycle promote` makes it")
    if not path.exists():
        raise ReleaseError(
            f"{path} names {os.readlink(path)}, which is gone; let another one serve with "
            "`python -m watchnext.lifecycle promote release=ID`, or run `dvc repro`"
        )
    return release_in(root, path.resolve().name, found=path.resolve())


def release_in(root: Path, name: str, *, found: Path | None = None) -> Path:
    """Return the folder of the release `name` in `root`. Raises ReleaseError for a name that leads elsewhere.

    `found` is the folder that a link leads to.
    """
    folder = Path(root).resolve() / name
    is_here = NAME.fullmatch(name) and name != "current" and folder.is_dir() and not folder.is_symlink()
    if not is_here or folder != (found or folder):
        known = ", ".join(releases_in(root)) or "none"
        raise ReleaseError(f"{str(found or name)!r} is no release of {root}; promote one of {known}")
    return folder


def releases_in(root: Path) -> list[str]:
    """Return the names of all releases in `root`, verified or not."""
    folders = (path for path in Path(root).iterdir() if path.is_dir() and not path.is_symlink())
    return sorted(path.name for path in folders if NAME.fullmatch(path.name) and path.name != "current")
