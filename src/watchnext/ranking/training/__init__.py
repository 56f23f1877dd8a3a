"""Train ranking models: losses, batches, debiasing, the Lightning module."""
