"""The platform's side of a request: inventory, logging policy, slates and sessions."""
