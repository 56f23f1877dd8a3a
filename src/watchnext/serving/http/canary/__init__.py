"""A release that is tried beside the one that serves > answers for a share of viewers, slates scored aside, and its end."""
