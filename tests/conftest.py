"""What all tests share. Properties are tried on the same examples every time and without a deadline, so that a busy
machine fails nothing."""

from hypothesis import settings

pytest_plugins = ["fakes.records", "fakes.factorial", "fakes.server"]

settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")


def pytest_collection_modifyitems(items):
    """Files with slow tests come first: at the end other workers would have nothing to do beside them."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
