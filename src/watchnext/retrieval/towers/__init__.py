"""Two-tower models, their losses and negatives."""
