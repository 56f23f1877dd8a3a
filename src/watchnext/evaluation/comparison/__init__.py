"""Two recommenders on the same held-out requests > paired differences with intervals and a noise floor."""
