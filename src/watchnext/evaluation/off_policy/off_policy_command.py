"""`python -m watchnext.evaluation off-policy`: value a release on the slates that a log has, and print every estimate."""

from contextlib import closing
from pathlib import Path

from omegaconf import DictConfig

from watchnext.cli import instantiate, write_report
from watchnext.evaluation.off_policy.policy_rates import PolicyRates
from watchnext.evaluation.off_policy.slate_log import OffPolicyError, SlateLog
from watchnext.evaluation.off_policy.slates.logged_slates import logged_slates
from watchnext.evaluation.off_policy.slates.served_slates import served_slates
from watchnext.evaluation.off_policy.value_report import value_report, value_table
from watchnext.evaluation.replay.held_out_log import HeldOutLog
from watchnext.features.dataset.batches import FeatureSet
from watchnext.metrics import rounded
from watchnext.serving.release.release import Release, current, last_built
from watchnext.serving.store.engines.redis_engine import is_url
from watchnext.serving.store.store import Store
from watchnext.types import TARGETS


def run_off_policy(config: DictConfig) -> None:
    """Value the last built release, or `release`, on the test days or on a served log; write the report and print it."""
    options, outputs, releases = config.off_policy, Path(config.data.outputs), Path(config.data.releases)
    if options.reward not in TARGETS:
        raise ValueError(f"off_policy.reward is {options.reward!r}, expected one of {', '.join(TARGETS)}")
    release = Release.load(releases / config.release if config.release else last_built(releases, outputs))
    slates, rates, left_out = _slates(config, release)
    report = {"release": release.id, "reward": options.reward, "left_out": left_out, **value_report(slates, rates)}
    write_report(outputs / "evaluation" / "off_policy.json", rounded(report, 6))
    print(value_table(report))


def _slates(config: DictConfig, release: Release) -> tuple[SlateLog, PolicyRates, dict[str, int]]:
    options, sampled = config.off_policy, {"requests": config.off_policy.requests, "seed": config.seed}
    if options.served is None:
        features = FeatureSet.load(Path(config.data.outputs) / "features")
        log = HeldOutLog.of_outputs(Path(config.data.outputs), features)
        return logged_slates(release, log, features.columns["targets"][:, TARGETS.index(options.reward)], **sampled)
    if not is_url(config.data.store) and not Path(config.data.store).exists():
        raise OffPolicyError(
            f"{config.data.store} is missing, expected the store of the server that wrote {options.served}, whose journal has "
            "the outcomes; name it as data.store=FOLDER"
        )
    serving, labels = Release.load(current(Path(config.data.releases))), instantiate(config.labels)
    with closing(Store.reader(config.data.store, serving)) as store:
        return served_slates(release, Path(options.served), store, labels, options.reward, **sampled)
