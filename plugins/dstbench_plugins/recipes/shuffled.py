"""Shuffled blocks: dense blocks over scattered rows and columns."""

from dstbench.api import Recipe


def dsb(block_size: int = 16, delta_t: int = 100) -> Recipe:
    """Dynamic shuffled blocks as published: RigL over blocks of scattered rows and columns, pruned by weight."""
    return Recipe(
        init="magnitude",
        structure={"name": "shuffled_block", "block_size": block_size, "drop": "weight"},
        schedule={"name": "cosine", "delta_t": delta_t},
    )


def ssb(block_size: int = 16) -> Recipe:
    """Static shuffled blocks: extraction once, at the start."""
    return dsb(block_size).but(schedule="never")


def dsb_16() -> Recipe:
    """Dynamic shuffled blocks of 16."""
    return dsb(16)


def dsb_32() -> Recipe:
    """Dynamic shuffled blocks of 32."""
    return dsb(32)


def dsb_64() -> Recipe:
    """Dynamic shuffled blocks of 64."""
    return dsb(64)


def ssb_16() -> Recipe:
    """Static shuffled blocks of 16."""
    return ssb(16)


def ssb_32() -> Recipe:
    """Static shuffled blocks of 32."""
    return ssb(32)


def ssb_64() -> Recipe:
    """Static shuffled blocks of 64."""
    return ssb(64)
