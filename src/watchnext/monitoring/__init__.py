"""Served traffic against training data: drift."""
