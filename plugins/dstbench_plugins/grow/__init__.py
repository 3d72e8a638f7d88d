"""Built-in grow strategies."""
