"""A query > candidates: which videos a request may get, the sources and their merge, and a refill from what was seen."""
