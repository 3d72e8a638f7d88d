"""Built-in prune strategies."""
