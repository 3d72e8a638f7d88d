"""Kernels, by what runs them."""
