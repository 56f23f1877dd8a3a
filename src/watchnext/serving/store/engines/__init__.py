"""Key-value engines below the store: tables of bytes, read and written in transactions. LMDB in a folder is the default."""
