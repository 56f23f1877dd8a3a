"""Train ranking models: losses, groups, debiasing, the Lightning module, distillation."""
