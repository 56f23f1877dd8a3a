"""Columns and state > codes and values, with the same code offline and online."""
