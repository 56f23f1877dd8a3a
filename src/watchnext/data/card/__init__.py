"""The data card: figures and plots of a log."""
