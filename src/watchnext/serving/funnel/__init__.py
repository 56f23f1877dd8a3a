"""A request > a slate: query, pre-filter, both stages, recommender, explanations, answer, slates ahead of time, served log."""
