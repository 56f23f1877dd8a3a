"""The registry of releases in MLflow: versions, and the aliases champion, challenger and previous."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from watchnext.tracking import defined, metric_name, store, tracking_uri

if TYPE_CHECKING:
    from watchnext.tracking import MlflowClient

MODEL = "watchnext"
Alias = Literal["champion", "challenger", "previous"]
LONGEST_DESCRIPTION = 4_900  # characters of a version's page; the store takes 5,000


def register_release(
    release_id: str,
    folder: Path,
    *,
    run_id: str,
    metrics: Mapping[str, float | None],
    card: str | None = None,
    name: str = MODEL,
) -> int:
    """Register a finished release as a model version, as challenger unless it serves; a known release keeps its version.

    The version points at the release's manifest among the run's artefacts, and its page shows the `card`, in Markdown, and what
    the run was tagged with. Raises FileNotFoundError for an unfinished release.
    """
    manifest = Path(folder) / "manifest.json"
    if not manifest.is_file():
        raise FileNotFoundError(f"release {release_id!r} has no {manifest}; build it with `dvc repro release`")
    with store(tracking_uri()) as client:
        existing = _version(client, name, release_id)
        version = existing or _create_version(client, name, release_id, manifest, run_id, metrics, card)
        if _aliased(client, name, "champion") != release_id:
            client.set_registered_model_alias(name, "challenger", str(version))
    return version


def _create_version(
    client: "MlflowClient",
    name: str,
    release_id: str,
    manifest: Path,
    run_id: str,
    metrics: Mapping[str, float | None],
    card: str | None,
) -> int:
    folder = f"releases/{release_id}"
    client.log_artifact(run_id, str(manifest), folder)
    if card:
        client.log_text(run_id, card, f"{folder}/model_card.md")
    tags = {"release_id": release_id, **{metric_name(f"metric.{metric}"): f"{value:.6g}" for metric, value in defined(metrics)}}
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    source = f"{client.get_run(run_id).info.artifact_uri}/{folder}"
    description = card[:LONGEST_DESCRIPTION] if card else None
    version = client.create_model_version(name, source, run_id=run_id, tags=tags, description=description)
    return int(version.version)


def require_registered(release_id: str, *, name: str = MODEL) -> None:
    """Raise LookupError for an unregistered release."""
    with store(tracking_uri()) as client:
        _registered(client, name, release_id)


def _registered(client: "MlflowClient", name: str, release_id: str) -> int:
    """Return the version of a release. Raises LookupError."""
    version = _version(client, name, release_id)
    if version is None:
        raise LookupError(
            f"release {release_id!r} is not registered as {name!r} in {tracking_uri()}; run `dvc repro release` first"
        )
    return version


def tag_release(release_id: str, tags: Mapping[str, str], *, name: str = MODEL) -> None:
    """Set tags on the version of a release. Raises LookupError for an unregistered release."""
    with store(tracking_uri()) as client:
        version = _registered(client, name, release_id)
        for key, value in tags.items():
            client.set_model_version_tag(name, str(version), key, value)


def set_champion(release_id: str, *, name: str = MODEL) -> None:
    """Mark this release as serving instead of challenger, and the one that served as previous.

    Raises LookupError for an unregistered release.
    """
    with store(tracking_uri()) as client:
        version = _registered(client, name, release_id)
        before = _aliased(client, name, "champion")
        if before not in (None, release_id):
            client.set_registered_model_alias(name, "previous", str(_registered(client, name, before)))
        client.set_registered_model_alias(name, "champion", str(version))
        if _aliased(client, name, "challenger") == release_id:
            client.delete_registered_model_alias(name, "challenger")


def release_of(alias: Alias, *, name: str = MODEL) -> str | None:
    """Return the id of the release that has an alias, None where none has it.

    champion    serves
    challenger  registered last of those that do not serve
    previous    served before the champion
    """
    with store(tracking_uri()) as client:
        return _aliased(client, name, alias)


def registered(*, name: str = MODEL) -> set[str]:
    """Return the ids of all registered releases."""
    with store(tracking_uri()) as client:
        versions = (
            client.search_model_versions(f"name = '{name}'") if client.search_registered_models(f"name = '{name}'") else []
        )
        return {version.tags["release_id"] for version in versions if "release_id" in version.tags}


def drop_challenger(*, name: str = MODEL) -> None:
    """Let no release be the challenger; the versions stay."""
    with store(tracking_uri()) as client:
        client.delete_registered_model_alias(name, "challenger")


def _version(client: "MlflowClient", name: str, release_id: str) -> int | None:
    versions = client.search_model_versions(f"name = '{name}' and tags.release_id = '{release_id}'")
    return int(versions[0].version) if versions else None


def _aliased(client: "MlflowClient", name: str, alias: Alias) -> str | None:
    """Return the release id of an alias; None if the model or the alias does not exist."""
    models = client.search_registered_models(f"name = '{name}'")
    if not models or alias not in models[0].aliases:
        return None
    return client.get_model_version_by_alias(name, alias).tags.get("release_id")
