"""Recipes: published methods as named choices of components, one file a family. No special cases: each is what
its parts are, and any part can be changed where it is named: ``{name: rigl, grow: momentum}``."""
