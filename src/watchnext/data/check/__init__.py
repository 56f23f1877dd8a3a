"""What is wrong with a log, what contradicts itself, and a profile to compare with what is known."""
