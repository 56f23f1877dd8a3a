"""Boosted trees: fitted, scored by a compiled loop, and seen as a network."""
