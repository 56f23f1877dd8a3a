"""Searchable index over video vectors, with pre-filter and recall check."""
