"""The pure engine: scores, budgets and structures in, masks out."""
