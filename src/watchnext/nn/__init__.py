"""Layers, training loop, checkpoints and export shared by retrieval and ranking networks."""
