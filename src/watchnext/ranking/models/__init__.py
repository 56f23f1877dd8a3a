"""One file a network, all with one signature."""
