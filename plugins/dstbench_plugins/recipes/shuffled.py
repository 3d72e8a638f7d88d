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


def dsb_fast(block_size: int = 64, delta_t: int = 100) -> Recipe:
    """Dynamic shuffled blocks in the form that runs fast: whole in-channels, equally many in every group.

    Whole columns are dropped. Single weights, as published, would hardly ever move one: extraction sees a
    column's whole worth, and keeps what has lost a few of its ``block_size`` · taps weights.
    """
    structure = {"name": "shuffled_block", "block_size": block_size, "columns": "channel", "balanced": True}
    return dsb(block_size, delta_t).but(structure=structure)


def ssb_fast(block_size: int = 64) -> Recipe:
    """Static shuffled blocks in the form that runs fast."""
    return dsb_fast(block_size).but(schedule="never")
