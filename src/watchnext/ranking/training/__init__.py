"""Network, loss and features introduced to each other."""
