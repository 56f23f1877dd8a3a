"""Tables and state > training columns, labels and batches."""
