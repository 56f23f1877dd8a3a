"""Held-out days through the Recommender that will be served."""
