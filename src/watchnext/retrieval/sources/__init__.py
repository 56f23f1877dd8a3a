"""Candidate sources and their merge."""
