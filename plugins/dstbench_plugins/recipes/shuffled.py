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


def dsb_fast_16() -> Recipe:
    """Fast dynamic shuffled blocks of 16."""
    return dsb_fast(16)


def dsb_fast_32() -> Recipe:
    """Fast dynamic shuffled blocks of 32."""
    return dsb_fast(32)


def dsb_fast_64() -> Recipe:
    """Fast dynamic shuffled blocks of 64."""
    return dsb_fast(64)


def ssb_fast_16() -> Recipe:
    """Fast static shuffled blocks of 16."""
    return ssb_fast(16)


def ssb_fast_32() -> Recipe:
    """Fast static shuffled blocks of 32."""
    return ssb_fast(32)


def ssb_fast_64() -> Recipe:
    """Fast static shuffled blocks of 64."""
    return ssb_fast(64)
