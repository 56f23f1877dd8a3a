"""Validation requests > settings: the merge, the order of its candidates, and their diversity."""
