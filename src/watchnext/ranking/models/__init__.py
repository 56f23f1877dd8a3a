"""Ranking networks, one per file, with one signature."""
