"""A request > a slate."""
