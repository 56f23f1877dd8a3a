"""Compare served traffic with training data: drift."""
