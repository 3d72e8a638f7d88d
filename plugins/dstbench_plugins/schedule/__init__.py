"""Built-in schedule strategies."""
