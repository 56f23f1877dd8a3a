"""Two towers for logs of ids and their order, and the leave-one-out protocol."""
