"""The platform's side of a request: what it may show, by which policy, and what a slate leads to."""
