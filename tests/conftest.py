"""What all tests share. Properties are tried on the same examples every time and without a deadline, so that a busy
machine fails nothing."""

from hypothesis import settings

pytest_plugins = ["fakes.records", "fakes.factorial", "fakes.server"]

settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")
