"""Leakage checks: no feature may hold information from after its request."""
