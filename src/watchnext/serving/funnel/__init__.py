"""A request > a slate: query, pre-filter, both stages, recommender, explanations, answer, precomputed slates, served log."""
