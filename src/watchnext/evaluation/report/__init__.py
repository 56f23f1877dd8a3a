"""Traces and scores > figures, tables and pictures."""
