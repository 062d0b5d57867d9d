"""Stage 5, train: kept pairs -> checkpoints."""
