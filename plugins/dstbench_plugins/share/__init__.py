"""Built-in share strategies."""
