"""Report what traced requests show: recall by stage, losses, slates, and retrieval."""

from collections.abc import Sequence

import numpy as np

from watchnext.evaluation.replay.funnel_trace import FunnelTrace, funnel_metrics, loss_shares
from watchnext.evaluation.report.losses import loss_report
from watchnext.evaluation.report.retrieval_report import retrieval_metrics
from watchnext.evaluation.report.slate_report import slate_report
from watchnext.serving.release.release import Release


def traced_report(
    traces: Sequence[FunnelTrace],
    release: Release,
    popularity: np.ndarray,
    *,
    k: Sequence[int],
    retrieval_k: Sequence[int],
    slate: int,
    seed: int,
) -> dict:
    """Report the traces of a release's requests; `popularity` (V,) counts watches before the held-out days.

    k  depths of recall by stage; retrieval_k  those of the sources; slate  K of the slates
    """
    facts = release.catalogue
    return {
        "funnel": funnel_metrics(traces, k, len(facts)),
        "lost": loss_shares(traces),
        "losses": loss_report(traces),
        "slate": slate_report(traces, facts=facts, popularity=popularity, k=slate, seed=seed),
        "retrieval": retrieval_metrics(traces, k=retrieval_k, popularity=popularity, seed=seed),
    }
