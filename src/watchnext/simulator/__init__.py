"""A platform whose true preferences are known: it makes the sample and drives closed-loop tests."""
