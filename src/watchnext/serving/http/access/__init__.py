"""Decide who is answered, before a body is read: host, keys and their scopes, rate."""
