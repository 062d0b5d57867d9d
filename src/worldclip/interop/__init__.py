"""Other libraries' formats, in both directions: names of tensors, configurations, checkpoints, whole folders."""
