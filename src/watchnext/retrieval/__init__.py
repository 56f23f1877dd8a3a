"""All videos > hundreds: a two-tower model, an index of its video vectors, and sources that need no model."""
