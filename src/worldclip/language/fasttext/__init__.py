"""Read (model.py) and run (kernels.py) fastText's supervised models with numba."""
