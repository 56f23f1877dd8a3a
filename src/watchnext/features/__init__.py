"""Tables > model inputs, with the same code offline and online."""
