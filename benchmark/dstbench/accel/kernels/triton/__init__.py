"""Kernels in Triton, for CUDA: row groups, ragged or balanced, forward and backward."""
