"""Which release serves: build, register, promote; and the whole pipeline on other data."""
