"""Records of runs > the tables of README.md and docs/."""
