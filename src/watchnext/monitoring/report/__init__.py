"""Verdicts > drift.json for programs, and a page that opens with one screen for people."""
