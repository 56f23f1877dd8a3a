"""watchnext: a video recommender. Raw logs > features > retrieval > ranking > re-ranking > a served slate."""

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    """Import the client when it is asked for: the rest of the package does without it, and digests of its code too."""
    if name in ("Client", "AsyncClient", "ApiError"):
        return getattr(import_module("watchnext.client"), name)
    raise AttributeError(f"module 'watchnext' has no attribute {name!r}")
