"""Moments of two windows > a verdict that names columns and what to do; verdicts in a row > one that holds."""
