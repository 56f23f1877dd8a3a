"""Load on a running server over HTTP: requests > answers with their times."""
