"""Replay held-out days through the Recommender that will serve, and report what each stage finds and loses."""
