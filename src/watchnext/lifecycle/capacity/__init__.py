"""Records of benchmarks and published loads > machines, storage and cost by number of viewers."""
