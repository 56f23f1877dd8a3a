"""The online store: environment (LMDB), journal of events, records, bootstrap, and a store built from a log."""
