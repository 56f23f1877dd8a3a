"""Raw logs > canonical, validated, time-split tables."""
