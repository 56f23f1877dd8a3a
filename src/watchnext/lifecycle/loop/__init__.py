"""Served log and outcomes > new days of the log > a decision to train > a candidate release, pass by pass."""
