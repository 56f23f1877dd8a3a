"""Two-tower models, their objectives and negatives."""
