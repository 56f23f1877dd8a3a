"""The online store: engines (LMDB, Redis), tables, building, folding, the store, group commit, stores for a successor."""
