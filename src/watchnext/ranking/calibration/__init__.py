"""Calibrate scores as probabilities, and measure their reliability."""
