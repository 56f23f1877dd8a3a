"""The online store: environment (LMDB), journal, records, group commit, checksums, bootstrap, a store built from a log."""
