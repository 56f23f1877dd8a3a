"""Hundreds > the same hundreds, scored per target."""
