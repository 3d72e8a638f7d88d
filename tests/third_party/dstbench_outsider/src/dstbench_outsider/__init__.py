"""Strategies for dstbench from outside."""
