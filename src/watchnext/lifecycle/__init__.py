"""Build, register and promote releases, and run the whole pipeline on other data."""
