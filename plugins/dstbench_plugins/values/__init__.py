"""Values: what weights hold at the start and where they grow, and how fast each layer learns."""
