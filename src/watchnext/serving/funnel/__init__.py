"""A request > a slate: query, candidates, ranking, recommender, explanation; slates ahead of time; what was served."""
