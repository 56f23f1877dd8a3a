"""The online state: records, journal, events."""
