"""Stock-operator kernels of row groups, forward and backward: gathers around batched products and convolutions."""
