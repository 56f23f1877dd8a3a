"""Events > the folded state of viewers, videos and creators; one fold for log and store."""
