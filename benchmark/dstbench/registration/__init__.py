"""From entry points to components: loading plugins in isolation, names, parameters, choices. Torch-free."""
