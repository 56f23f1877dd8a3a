"""A network's watch-time logits > expected seconds: several readings of one head, behind one interface."""
