"""Answers > rows of the served log, and its rows > the same answers again."""
