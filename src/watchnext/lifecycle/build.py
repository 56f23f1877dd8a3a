"""Trained parts > one published release, with its reference sample, entered in the registry."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from watchnext.features.dataset.batches import FeatureSet
from watchnext.lifecycle.parity import CANDIDATE_INPUTS, agreement, require_agreement
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
from watchnext.serving.release.release import aside, assemble, publish
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
EXAMPLE = 3  # candidates the graph is traced with; any number may follow


@dataclass(frozen=True)
class Built:
    """The release's folder, whether it is `new` there, and how near the compiled ranker is to the trained one
    (lifecycle/parity.py); empty without one."""

    folder: Path
    new: bool
    agreement: Mapping[str, float]


@dataclass(frozen=True)
class ReleaseBuilder:
    """Built features, the folder with the trained parts, where releases go, and the settings that travel with one."""

    data: str
    features: FeatureSet
    outputs: Path
    releases: Path
    clock: str
    reranking: Mapping
    retrieval: Mapping

    def build(self) -> Built:
        """Export, compare, assemble aside, publish. The same parts give the same release.

        Raises FileNotFoundError or SchemaError naming the stage to run where a part is missing or of another
        schema, ValueError where the value weighs a head that the ranker lacks, AgreementError where the compiled ranker
        answers otherwise than the trained one.
        """
        features, schema = self.features, self.features.pipeline.schema
        towers = load_network(self.outputs / "two_tower", schema=schema, repair="dvc repro two_tower")
        ranker = Ranker.load(self.outputs / "ranker", schema=schema, repair="dvc repro ranker")
        weights = self.reranking["value"]["weights"]
        ranker.require((name for name, weight in weights.items() if weight), by="reranking.value.weights")
        work = aside(self.releases)
        try:
            self._export(towers, ranker.network, work)
            found = self._compared(ranker.network, work / "ranker.xml")
            reference(features, ranker, "valid").write_parquet(work / "reference.parquet")
            there = set(self.releases.iterdir())
            folder = self._publish(work)
            return Built(folder, folder not in there, found)
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _export(self, towers: torch.nn.Module, ranker: torch.nn.Module, work: Path) -> None:
        inputs = self.features.newcomers(EXAMPLE)
        query = {name: inputs[name][:1] for name in QUERY_INPUTS}
        export_graph(OneViewer(towers.query), query, rows_vary=set(), path=work / "query_tower.xml")
        if isinstance(ranker, Unranked):
            return
        given = query | {name: inputs[name] for name in CANDIDATE_INPUTS}
        if forest := forest_of(ranker):
            forest.save(work / TREES)
            given[INPUT] = torch.zeros(EXAMPLE, len(TARGETS))
        export_graph(Scorer(ranker), given, rows_vary={*CANDIDATE_INPUTS, INPUT}, path=work / "ranker.xml")

    def _compared(self, ranker: torch.nn.Module, exported: Path) -> dict[str, float]:
        if not exported.exists():
            return {}
        found = agreement(CompiledRanker.load(exported.parent), ranker, self.features, self.features.rows("valid"))
        require_agreement(found)
        return found

    def _publish(self, work: Path) -> Path:
        staging = aside(self.releases)
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
            facts = {
                "data": self.data,
                "regime": report["regime"],
                "as_of_ms": report["as_of_ms"],
                "clock": self.clock,
                "towers": fingerprint(self.outputs / "two_tower"),
            }
            return publish(staging, self.releases, facts)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
