"""Policies in front of simulated viewers > who watched what, and whether one policy serves them better than another."""
