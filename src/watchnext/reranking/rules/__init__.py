"""Rules of re-ranking, one class each: video rows and what is known of a viewer > what may be shown."""
