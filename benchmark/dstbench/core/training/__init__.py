"""Sparse training of a live model: the one mutable object and its parts."""
