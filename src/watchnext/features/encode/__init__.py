"""Columns and state > codes and values, the same code offline and online."""
