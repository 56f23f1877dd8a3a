"""Scores > probabilities, and how far they can be trusted."""
