"""A new `releases/current` > the release that a running server answers from, or a refusal by name."""
