"""Other libraries' folders and checkpoints."""
