"""A simulated platform with known true preferences: it makes the sample and drives closed-loop tests."""
