"""The CPU backend: kernels compiled by numba, one file a family."""
