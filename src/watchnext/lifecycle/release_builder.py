"""Build a release: export and check the networks, sample the reference, assemble and publish all parts."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from watchnext.features.dataset.batches import FeatureSet
from watchnext.lifecycle.parity import CANDIDATE_INPUTS, parity, require_parity
from watchnext.monitoring.reference import reference
from watchnext.nn.export import export_graph
from watchnext.nn.weights import fingerprint, load_network
from watchnext.ranking.heads import Scorer
from watchnext.ranking.models.trees.forest import INPUT
from watchnext.ranking.models.trees.tree_network import forest_of
from watchnext.ranking.models.unranked import Unranked
from watchnext.ranking.scoring import Ranker
from watchnext.retrieval.towers.two_tower import OneViewer
from watchnext.serving.release.compiled import TREES, CompiledRanker
from watchnext.serving.release.release import assemble, publish, staging_folder
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

    def build(self) -> BuiltRelease:
        """Export, check parity, assemble, publish. The same parts give the same release.

        Raises FileNotFoundError or SchemaError naming the stage to run where a part is missing or of another schema, ValueError
        where the value has a weight for a head that the ranker lacks, ParityError where the compiled ranker differs from the
        trained one.
        """
        features, schema = self.features, self.features.pipeline.schema
        towers = load_network(self.outputs / "two_tower", schema=schema, repair="dvc repro two_tower")
        ranker = Ranker.load(self.outputs / "ranker", schema=schema, repair="dvc repro ranker")
        weights = self.reranking["value"]["weights"]
        ranker.require((name for name, weight in weights.items() if weight), by="reranking.value.weights")
        work = staging_folder(self.releases)
        try:
            self._export(towers, ranker.network, work)
            measured = self._require_parity(ranker.network, work / "ranker.xml")
            reference(features, ranker, "valid").write_parquet(work / "reference.parquet")
            existing = set(self.releases.iterdir())
            folder = self._publish(work)
            return BuiltRelease(folder, folder not in existing, measured)
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _export(self, towers: torch.nn.Module, ranker: torch.nn.Module, work: Path) -> None:
        inputs = self.features.newcomers(EXAMPLE)
        query = {name: inputs[name][:1] for name in QUERY_INPUTS}
        export_graph(OneViewer(towers.query), query, rows_vary=set(), path=work / "query_tower.xml")
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
        measured = parity(CompiledRanker.load(exported.parent), ranker, self.features, self.features.rows("valid"))
        require_parity(measured)
        return measured

    def _publish(self, work: Path) -> Path:
        staging = staging_folder(self.releases)
        try:
            assemble(
                staging,
                features=self.features.folder,
                query_tower=work / "query_tower.xml",
                ranker=exported if (exported := work / "ranker.xml").exists() else None,
                calibration=self.outputs / "ranker" / "calibration",
                index=self.outputs / "index",
                graph=self.outputs / "graph",
                trending=self.outputs / "trending",
                reranking=self.reranking,
                retrieval=self.retrieval,
                reference=work / "reference.parquet",
            )
            report = self.features.report
            manifest = {
                "data": self.data,
                "regime": report["regime"],
                "as_of_ms": report["as_of_ms"],
                "clock": self.clock,
                "towers": fingerprint(self.outputs / "two_tower"),
            }
            return publish(staging, self.releases, manifest)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
