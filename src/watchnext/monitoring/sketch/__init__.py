"""Rows > codes of bins > moments by viewer > one p-value and one effect a check."""
