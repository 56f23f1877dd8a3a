"""A log of slates, held out or served > a slate log, and the probabilities of a release for it."""
