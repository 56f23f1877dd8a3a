"""Retrieval cuts all videos to hundreds: two-tower models, an index of video vectors, and further candidate sources."""
