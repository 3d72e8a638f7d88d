"""Fixtures that several rooms of tests share."""

pytest_plugins = ["fakes.records", "fakes.server"]
