"""``python -m dstbench.bench``."""

from dstbench.bench import main

if __name__ == "__main__":
    main()
