"""One file a candidate source, and the merge."""
