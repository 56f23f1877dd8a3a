"""A request > a slate: release (the sealed folder), store (online state), funnel (recommender), http (API and page)."""
