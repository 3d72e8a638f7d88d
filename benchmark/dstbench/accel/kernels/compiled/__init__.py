"""Kernels in C++, compiled on the machine that runs them: row groups with ragged columns, and single rows."""
