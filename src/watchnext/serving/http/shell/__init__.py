"""Settings > a running server: everything opened and closed once, and the program that serves the app without BentoML."""
