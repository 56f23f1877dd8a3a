"""Published and own layouts > the canonical tables, one file a layout."""
