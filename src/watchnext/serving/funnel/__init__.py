"""A request > a slate: query, pre-filter, sources, recommender, explanations, answer, precomputed slates, served log."""
