"""Video vectors > a searchable index, with pre-filter and recall check."""
