"""Results of others: made ready to be handed in, and verified."""
