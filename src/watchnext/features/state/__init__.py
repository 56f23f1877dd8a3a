"""Events > folded state of viewers, videos and creators; log and store share one fold."""
