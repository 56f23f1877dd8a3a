"""Held-out days, or the served log with what its viewers did > impressions to compare."""
