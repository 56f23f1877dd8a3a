"""Tables > model inputs; the same code offline and online."""
