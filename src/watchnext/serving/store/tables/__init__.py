"""Tables of a store: the journal, sealed records, posted videos, keys, slates ahead of time, trending counts."""
