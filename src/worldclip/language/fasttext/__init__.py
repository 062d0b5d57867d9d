"""fastText's supervised models, read and run by numba."""
