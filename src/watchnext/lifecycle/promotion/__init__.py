"""A candidate beside the champion > guards, live traffic, a decision with its reason, a report."""
