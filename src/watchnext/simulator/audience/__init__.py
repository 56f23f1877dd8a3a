"""Viewers of a simulated platform in a closed loop: when they come, how long they stay, and whether they come back."""
