"""watchnext: a video recommender. Raw logs > features > retrieval > ranking > re-ranking > a served slate."""
