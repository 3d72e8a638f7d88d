"""The engine: pure functions that choose masks, and one mutable object at the edge, the Sparsifier."""
