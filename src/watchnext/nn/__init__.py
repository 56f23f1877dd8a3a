"""Layers that several models use, and their way out of torch: embeddings, cross and deep layers, attention, exported graphs."""
