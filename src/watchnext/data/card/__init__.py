"""What the data looks like, in figures and pictures."""
