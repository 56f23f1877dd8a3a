"""Build a release: export the networks, choose settings on the validation days, check parity, assemble and publish."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from watchnext.data.storage import StoredTables
from watchnext.evaluation.replay.held_out_log import HeldOutLog
from watchnext.evaluation.selection.continuation import continuation_of
from watchnext.evaluation.selection.held_out import VALID, before_validation, validation_requests
from watchnext.evaluation.selection.selection import HeldOut, Selection, select
from watchnext.features.dataset.batches import CANDIDATE_INPUTS, NO_INPUTS, FeatureSet
from watchnext.lifecycle.parity import ROWS, parity, require_parity
from watchnext.monitoring.sketch.rows import Impressions
from watchnext.monitoring.windows.reference import held_out, write_reference
from watchnext.nn.export import export_graph
from watchnext.nn.weights import fingerprint, load_network, written_aside
from watchnext.ranking.heads import Scorer
from watchnext.ranking.models.trees.forest import INPUT
from watchnext.ranking.models.trees.tree_network import forest_of
from watchnext.ranking.models.unranked import Unranked
from watchnext.ranking.scoring import Ranker
from watchnext.reranking.slate import Reranker
from watchnext.retrieval.towers.two_tower import OneViewer
from watchnext.serving.release.compiled import TREES, CompiledRanker
from watchnext.serving.release.live_catalogue import LiveCatalogue
from watchnext.serving.release.reference_sample import write_sample
from watchnext.serving.release.release import Release, assemble, publish, staging_folder
from watchnext.serving.release.surfaces import Surfaces
from watchnext.types import TARGETS

QUERY_INPUTS = (
    "user_codes",
    "user_values",
    "context_codes",
    "query_values",
    "history_codes",
    "history_tags",
    "history_vector",
    "history_values",
    "history_mask",
)
VIDEO_INPUTS = ("video_codes", "video_tags", "video_values", "video_vector")
CONFIGURED = "configured.json"
SAMPLE_REQUESTS, SAMPLE_CANDIDATES = 4, 64  # of the reference sample that a server computes again
REFIT = "refit"  # folder below the outputs, of the parts that were trained on all days
EXAMPLE = 3  # candidates of the traced example; the exported network takes any number


@dataclass(frozen=True)
class BuiltRelease:
    """The release's folder, `new` unless it existed before, and the parity of the compiled ranker; empty without one."""

    folder: Path
    new: bool
    parity: Mapping[str, float]


@dataclass(frozen=True)
class ReleaseBuilder:
    """Build releases from built features and the folder of the trained parts; settings go into the release."""

    data: str
    features: FeatureSet
    outputs: Path
    releases: Path
    clock: str
    reranking: Mapping
    retrieval: Mapping
    surfaces: Mapping

    def select(self, *, requests: int, regime: str, slate: int, seed: int) -> Selection:
        """Export the networks, and choose settings on at most `requests` requests of the validation days.

        Replaces `outputs`/selection. Raises FileNotFoundError or SchemaError naming the stage to run where a part is missing or
        of another schema, ValueError where the value has a weight for a head that the ranker lacks.
        """
        with written_aside(self.outputs / "selection") as folder, TemporaryDirectory(dir=self.outputs) as root:
            self.export(folder)
            without = self._without_signal()
            start = Selection.start(self.retrieval["merge"], Reranker.from_config(self._starting(without)))
            release = Release.load(self._publish(start, folder, Path(root), reference=None))
            held_out = list(self._validation_requests(release, requests, regime, slate))
            chosen_by = {"reranker": release.reranker, "facts": LiveCatalogue(release, room=0), "surfaces": release.surfaces}
            selection = select(held_out, start, **chosen_by, seed=seed)
            selection = replace(selection, report={**selection.report, "left_out": without})
            selection.save(folder)
            (folder / CONFIGURED).write_text(json.dumps(self._configured))
        return selection

    def _without_signal(self) -> list[str]:
        """Return the weighed outcomes that are the same in every training row; none where no other is weighed."""
        rows = self.features.rows("train")
        weighed = [name for name, weight in self.reranking["value"]["weights"].items() if weight]
        targets = {name: self.features.columns["targets"][rows, TARGETS.index(name)] for name in weighed}
        constant = [name for name, column in targets.items() if column.min(initial=np.inf) >= column.max(initial=-np.inf)]
        return constant if len(constant) < len(weighed) else []

    def _starting(self, without: Sequence[str]) -> dict:
        """Return the settings of re-ranking with no weight for the outcomes `without` signal, and with the log's own chance to
        go on to the next slot where none is set."""
        value = self.reranking["value"]
        value = {**value, "weights": {**value["weights"], **dict.fromkeys(without, 0.0)}}
        if value.get("continuation", 1.0) is None:
            value["continuation"] = continuation_of(self.features.columns, self.features.rows("train"))
        return {**self.reranking, "value": value}

    @property
    def _configured(self) -> dict:
        """The settings from which the search starts."""
        settings = {name: self.reranking[name] for name in ("value", "diversity")}
        return {"retrieval": self.retrieval, "surfaces": self.surfaces, **settings}

    def _require_selected(self, folder: Path) -> Selection:
        """Load the selection. Raises ValueError naming a setting that changed since."""
        selection, then = Selection.load(folder), json.loads((folder / CONFIGURED).read_text())
        if changed := [
            name for name, settings in json.loads(json.dumps(self._configured)).items() if settings != then.get(name, {})
        ]:
            raise ValueError(
                f"{' and '.join(changed)} changed since {folder} was written: its choices started from other settings; "
                f"run `python -m watchnext.lifecycle select` with the same settings, or `dvc repro selection`"
            )
        return selection

    def export(self, folder: Path) -> None:
        """Export the networks to `folder`."""
        schema = self.features.pipeline.schema
        towers = load_network(self.outputs / "two_tower", schema=schema, repair="dvc repro two_tower")
        self._export(towers, self._ranker().network, folder)

    def build(self) -> BuiltRelease:
        """Check parity, assemble, publish. The same parts give the same release.

        Raises FileNotFoundError naming the stage to run where a part is missing, ValueError where settings changed since
        `select`, ParityError where the compiled ranker differs from the trained one.
        """
        return self._built(held_out(self.features, self._ranker(), "valid"))

    def build_refitted(self, evaluated: str) -> BuiltRelease:
        """Build a release of the parts in `outputs`/REFIT, which repeat this builder's on all days, and name the `evaluated`.

        Settings and calibration are those that were chosen and fitted on the validation days. The reference is the test days as
        the evaluated ranker scores them, who never learned from them. Raises as `build` does.
        """
        folder = self.outputs / REFIT
        whole = replace(self, outputs=folder, features=FeatureSet.load(folder / "features"))
        if (fitted := self.outputs / "ranker" / "calibration").exists():
            shutil.copytree(fitted, folder / "ranker" / "calibration", dirs_exist_ok=True)
        with written_aside(folder / "selection") as chosen:
            whole.export(chosen)
            self._require_selected(self.outputs / "selection").save(chosen)
            shutil.copyfile(self.outputs / "selection" / CONFIGURED, chosen / CONFIGURED)
        return whole._built(held_out(self.features, self._ranker(), "test"), evaluated=evaluated)

    def _built(self, reference: Impressions, **names: str) -> BuiltRelease:
        """Check parity and publish with the `reference`; `names` are optional keys of the manifest."""
        chosen = self.outputs / "selection"
        selection = self._require_selected(chosen)
        measured = self._require_parity(self._ranker().network, chosen / "ranker.xml")
        work = staging_folder(self.releases)
        try:
            write_reference(reference, self.features, work)
            existing = set(self.releases.iterdir())
            folder = self._publish(selection, chosen, self.releases, reference=work, **names)
            return BuiltRelease(folder, folder not in existing, measured)
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _checked_rows(self) -> np.ndarray:
        """Return the impressions on which compiled networks are checked: of the validation days, or the last where none is held
        out."""
        rows = self.features.rows("valid")
        return rows if len(rows) or len(self.features.rows("test")) else self.features.rows("train")[-ROWS:]

    def _ranker(self) -> Ranker:
        ranker = Ranker.load(self.outputs / "ranker", schema=self.features.pipeline.schema, repair="dvc repro ranker")
        if self.surfaces:
            Surfaces(self.surfaces).require(Reranker.from_config(self.reranking), self.retrieval)
        named = {f"surfaces.{name}.": each.get("reranking", {}) for name, each in self.surfaces.items()}
        for owner, reranking in {"": self.reranking, **named}.items():
            weights = reranking.get("value", {}).get("weights", {})
            ranker.require((name for name, weight in weights.items() if weight), by=f"{owner}reranking.value.weights")
        return ranker

    def _validation_requests(self, release: Release, requests: int, regime: str, slate: int) -> Iterator[HeldOut]:
        columns = self.features.columns
        split, times = np.asarray(columns["split"]), columns["time_ms"]
        if not (split == VALID).any() or not (split == 0).any():
            return iter(())
        stored = StoredTables.open(self.outputs / "tables")
        earlier = before_validation(release, stored, int(times[split == VALID].min()))
        log = HeldOutLog(stored, split, columns["targets"][:, TARGETS.index("long_view")], VALID)
        return validation_requests(earlier, log, regime=regime, limit=requests, slate=slate)

    def _export(self, towers: torch.nn.Module, ranker: torch.nn.Module, work: Path) -> None:
        inputs = self.features.newcomers(EXAMPLE)
        query = {name: inputs[name][:1] for name in QUERY_INPUTS}
        export_graph(OneViewer(towers.query), query, rows_vary=set(), path=work / "query_tower.xml")
        video = {name: inputs[name] for name in VIDEO_INPUTS} | {"video_new": torch.zeros(EXAMPLE)}
        export_graph(towers.video, video, rows_vary={*video}, path=work / "video_tower.xml")
        if isinstance(ranker, Unranked):
            return
        example = query | {name: inputs[name] for name in CANDIDATE_INPUTS}
        if forest := forest_of(ranker):
            forest.save(work / TREES)
            example[INPUT] = torch.zeros(EXAMPLE, len(TARGETS))
        export_graph(Scorer(ranker), example, rows_vary={*CANDIDATE_INPUTS, INPUT}, path=work / "ranker.xml")

    def _require_parity(self, ranker: torch.nn.Module, exported: Path) -> dict[str, float]:
        if not exported.exists():
            return {}
        measured = parity(CompiledRanker.load(exported.parent), ranker, self.features, self._checked_rows())
        require_parity(measured)
        return measured

    def _publish(self, selection: Selection, networks: Path, root: Path, *, reference: Path | None, **names: str) -> Path:
        """Assemble and publish a release in `root` from all parts, with the `networks` of `select`."""
        staging = staging_folder(root)
        try:
            assemble(
                staging,
                features=self.features.folder,
                query_tower=networks / "query_tower.xml",
                video_tower=networks / "video_tower.xml",
                ranker=exported if (exported := networks / "ranker.xml").exists() else None,
                calibration=self.outputs / "ranker" / "calibration",
                engage=selection.trees,
                index=self.outputs / "index",
                graph=self.outputs / "graph",
                trending=self.outputs / "trending",
                reranking=selection.reranking(self.reranking),
                retrieval={**self.retrieval, "merge": selection.merge},
                surfaces=self.surfaces,
                selection=selection.report,
                reference=reference,
            )
            if reference:
                write_sample(staging, sample_inputs(self.features, self._checked_rows()))
            report = self.features.report
            manifest = {
                "data": self.data,
                "regime": report["regime"],
                "as_of_ms": report["as_of_ms"],
                "clock": self.clock,
                "towers": fingerprint(self.outputs / "two_tower"),
                **names,
            }
            return publish(staging, root, manifest)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def sample_inputs(features: FeatureSet, rows: np.ndarray) -> list[dict[str, np.ndarray]]:
    """Return the inputs of SAMPLE_REQUESTS requests at most, each of one viewer with up to SAMPLE_CANDIDATES of `rows`."""
    batches = []
    for first in range(0, min(len(rows), SAMPLE_REQUESTS * SAMPLE_CANDIDATES), SAMPLE_CANDIDATES):
        batch = features.batch(rows[first : first + SAMPLE_CANDIDATES])
        inputs = {name: values.numpy() for name, values in batch.items() if name not in NO_INPUTS}
        batches.append({name: each if name in CANDIDATE_INPUTS else each[:1] for name, each in inputs.items()})
    return batches
