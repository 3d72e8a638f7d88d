"""Data sets that ship."""
