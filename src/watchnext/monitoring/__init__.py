"""Served traffic against training data > a verdict: none, drift, or no data."""
