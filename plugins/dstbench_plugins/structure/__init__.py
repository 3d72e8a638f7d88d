"""Built-in structure strategies."""
