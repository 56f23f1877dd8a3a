"""watchnext: a video recommender. Raw logs > features > retrieval > ranking > re-ranking > a served slate."""

from typing import Any


def __getattr__(name: str) -> Any:
    """Import the client when it is asked for: the rest of the package does without it."""
    if name in ("Client", "AsyncClient", "ApiError"):
        from watchnext import client

        return getattr(client, name)
    raise AttributeError(f"module 'watchnext' has no attribute {name!r}")
