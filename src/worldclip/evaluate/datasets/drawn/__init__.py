"""Held-out sets of pools that worldclip draws: not a layout of a folder, but read from RUN/pool."""
