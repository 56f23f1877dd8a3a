"""Check a log: errors, contradictions, and a profile."""
