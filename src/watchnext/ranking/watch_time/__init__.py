"""Watch-time heads: logits > expected seconds, behind one interface."""
