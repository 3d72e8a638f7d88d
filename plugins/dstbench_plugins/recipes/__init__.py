"""Recipes: published methods as named choices."""
