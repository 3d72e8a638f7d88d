"""Built-in accumulators."""
