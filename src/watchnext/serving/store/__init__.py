"""The online store: environment (LMDB), journal of events, records, group commit, checksums, bootstrap, and a store built from a
log."""
