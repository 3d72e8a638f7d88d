"""Executors that have other machines: they start workers there, and the results folder says what became of them."""
