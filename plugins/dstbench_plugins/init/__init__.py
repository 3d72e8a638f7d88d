"""Built-in init strategies."""
