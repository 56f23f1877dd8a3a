"""Measured service times and incidents > latency, shed share and machines of a fleet of servers, by simulation."""
