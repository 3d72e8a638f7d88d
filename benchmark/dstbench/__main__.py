"""``python -m dstbench`` is the command line."""

from dstbench.cli import main

main()
