"""Importance, ablation, learning curve and trade-off."""
