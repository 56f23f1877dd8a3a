"""The recommender > slates of every viewer, computed ahead of time, and read back while they are valid."""
