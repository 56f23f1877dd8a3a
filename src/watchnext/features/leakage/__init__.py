"""Checks that a feature cannot know what it must not know."""
