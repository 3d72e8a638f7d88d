"""The recipes: published methods by name."""

from __future__ import annotations

from typing import Any

from dstbench import hookimpl
from dstbench.hookspecs import Register
from dstbench_plugins.registrations import Add, aliases, below, cited


@hookimpl
def register_recipe(register: Register) -> None:
    """Recipes: published methods as named choices of the parts above."""
    add = below(register, "recipes")
    alias = aliases(add)
    add("dense", "controls:dense", "no sparsity", control="dense")
    summary = "a narrower dense model of as many parameters"
    add("small-dense", "controls:small_dense", summary, control="small-dense")
    add("static", "controls:static", "random sparse from the start, never updated", control="static")
    add(
        "snip",
        "controls:snip",
        "SNIP: sparse by saliency at the first batch, never updated",
        bibtex=cited("SNIP"),
    )
    summary = "one-shot magnitude pruning of the weights that training starts from, then fine-tuning"
    add("one-shot", "controls:one_shot", summary, bibtex=cited("HAN"))
    add("set", "dst:set_", "SET as in the RigL paper: magnitude, random", bibtex=cited("SET"))
    add(
        "set-author",
        "dst:set_author",
        "SET as its authors': within sign, constant, per epoch",
        bibtex=cited("SET"),
    )
    add("set-itop", "dst:set_itop", "SET with long periods over all of the training", bibtex=cited("ITOP"))
    add("rigl", "dst:rigl", "RigL: magnitude, gradient, cosine", bibtex=cited("RIGL"))
    add(
        "rigl-uniform",
        "dst:rigl_uniform",
        "RigL, uniform with a dense first convolution",
        bibtex=cited("RIGL"),
    )
    alias("rigl-5x", "dst:rigl", "RigL, trained five times as long", multiplier=5.0)
    add("rigl-itop", "dst:rigl_itop", "RigL with long periods over all of the training", bibtex=cited("ITOP"))
    alias("rigl-itop-2x", "dst:rigl_itop", "RigL-ITOP, trained twice as long", multiplier=2.0)
    add(
        "snfs",
        "dst:snfs",
        "SNFS: magnitude, momentum, shared by mean momentum",
        version="2",
        bibtex=cited("SNFS"),
    )
    add("dsr", "dst:dsr", "DSR: global magnitude, random, shared by survivors", bibtex=cited("DSR"))
    add("mest", "dst:mest", "MEST with elastic mutation (EM)", version="2", bibtex=cited("MEST"))
    add("mest-ems", "dst:mest_ems", "MEST above its density until late (EM&S)", bibtex=cited("MEST"))
    alias("mest-1.5x", "dst:mest", "MEST (EM), trained one and a half times as long", multiplier=1.5)
    add(
        "gmp",
        "dense_to_sparse:gmp",
        "gradual magnitude pruning from dense",
        version="2",
        bibtex=cited("GMP"),
    )
    add(
        "granet",
        "dense_to_sparse:granet",
        "GraNet: gradual pruning with gradient regrowth",
        bibtex=cited("GRANET"),
    )
    add("srigl", "srigl:srigl", "SRigL: RigL with a constant fan-in", bibtex=cited("SRIGL"))
    add(
        "dsb",
        "shuffled:dsb",
        "dynamic shuffled blocks; dsb-16, dsb-32, dsb-64 set the block size",
        bibtex=cited("SHUFFLED_BLOCK"),
    )
    add(
        "ssb",
        "shuffled:ssb",
        "static shuffled blocks; ssb-16, ssb-32, ssb-64 set the block size",
        bibtex=cited("SHUFFLED_BLOCK"),
    )
    add(
        "dsb-fast",
        "shuffled:dsb_fast",
        "dsb of whole in-channels, equally many in every group: runs fast",
        bibtex=cited("SHUFFLED_BLOCK"),
    )
    add(
        "ssb-fast",
        "shuffled:ssb_fast",
        "the same, static; ssb-fast-16, ssb-fast-32, ssb-fast-64",
        bibtex=cited("SHUFFLED_BLOCK"),
    )
    add(
        "chase",
        "chase:chase",
        "Chase: soft memory bound, weak channels removed for good",
        bibtex=cited("CHASE"),
    )
    _chase_aliases(alias)
    _block_aliases(alias)
    add("block-rigl", "dst:block_rigl", "RigL over contiguous blocks", bibtex=cited("RIGL"))
    add("channel-rigl", "dst:channel_rigl", "RigL over output channels", bibtex=cited("RIGL"))
    summary = "GSE: magnitude, gradients of random positions, over all layers"
    add("gse", "dst:gse", summary, bibtex=cited("GSE"))
    summary = "Deep R: fixed signs, what crosses zero dies, random ones wake, every step"
    add("deep-r", "dst:deep_r", summary, bibtex=cited("DEEP_R"))
    summary = "Top-KAST: forward by the largest |w|, a superset of them trained"
    add("top-kast", "dst:top_kast", summary, bibtex=cited("TOP_KAST"))
    alias("gse-grabo", "dst:gse", "GSE, positions drawn by Σ|x| and Σ|∂L/∂y| (GraBo)", by="grabo")
    alias("gse-graest", "dst:gse", "GSE, positions drawn by |Σ ±x| and |Σ ±∂L/∂y| (GraEst)", by="graest")
    summary = "RigL behind cycles of rising and falling density (EAST, its networks aside)"
    add("east", "dst:east", summary, version="2", bibtex=cited("EAST"))
    _topological(add)
    _from_dense(add)
    _before_training(add)


def _topological(add: Add) -> None:
    """Growth by the network's own topology."""
    summary = "CHTs: local receptive fields, soft removal, growth by local communities"
    add("chts", "topology:chts", summary, bibtex=cited("CHTS"))
    add("chtss", "topology:chtss", "CHTs while the density falls along a sigmoid", bibtex=cited("CHTS"))
    summary = "CHTs with its paper's values: SWI, last value where weights grow, restarts of the rate"
    add("chts-values", "topology:chts_values", summary, bibtex=cited("CHTS"))
    add("chtss-values", "topology:chtss_values", "CHTss with its paper's values", bibtex=cited("CHTS"))


def _from_dense(add: Add) -> None:
    """Networks that start dense."""
    summary = "gradual pruning by layer-adaptive magnitude, over all layers"
    add("lamp", "dense_to_sparse:lamp", summary, bibtex=cited("LAMP"))
    summary = "gradual pruning by |w|·‖X‖ within rows, from dense"
    add("wanda", "dense_to_sparse:wanda", summary, bibtex=cited("WANDA"))
    summary = "gradual pruning by movement, from dense"
    add("movement", "dense_to_sparse:movement", summary, bibtex=cited("MOVEMENT"))
    add("acdc", "dense_to_sparse:acdc", "AC/DC: sparse and dense phases by turns", bibtex=cited("ACDC"))


def _before_training(add: Add) -> None:
    """Networks that are pruned at their initial weights, for good."""
    summary = "SynFlow: sparse without data, by flow through |network|, never updated"
    add("synflow", "controls:synflow", summary, bibtex=cited("SYNFLOW"))
    summary = "GraSP: sparse by what gradients would lose, never updated"
    add("grasp", "controls:grasp", summary, bibtex=cited("GRASP"))
    summary = "SNIP in 60 rounds, never updated"
    add("snip-it", "controls:snip_it", summary, bibtex=cited("FORCE"))
    summary = "FORCE: SNIP in 60 rounds that may take weights back, never updated"
    add("force", "controls:force", summary, bibtex=cited("FORCE"))


def _chase_aliases(alias: Add) -> None:
    """Chase as its tables have it, by the fraction of channels that goes."""

    def chase(name: str, percent: int, also: str = "", **parameters: Any) -> None:
        summary = f"Chase, {percent} % of channels removed{also}"
        alias(name, "chase:chase", summary, channel_sparsity=percent / 100, **parameters)

    chase("chase-0", 0)
    chase("chase-1.5x-0", 0, ", 1.5 times as long", multiplier=1.5)
    chase("chase-0.3", 30)
    chase("chase-1.5x-0.3", 30, ", 1.5 times as long", multiplier=1.5)
    chase("chase-skip-0.3", 30, ", also of residual streams", scope="residual")
    chase("chase-0.4", 40)
    chase("chase-1.5x-0.4", 40, ", 1.5 times as long", multiplier=1.5)
    chase("chase-skip-0.4", 40, ", also of residual streams", scope="residual")
    chase("chase-0.5", 50)
    chase("chase-skip-0.5", 50, ", also of residual streams", scope="residual")


def _block_aliases(alias: Add) -> None:
    """Shuffled blocks by their size."""
    alias("dsb-16", "shuffled:dsb", "dynamic shuffled blocks of 16", block_size=16)
    alias("ssb-16", "shuffled:ssb", "static shuffled blocks of 16", block_size=16)
    alias("dsb-fast-16", "shuffled:dsb_fast", "fast dynamic shuffled blocks of 16", block_size=16)
    alias("ssb-fast-16", "shuffled:ssb_fast", "fast static shuffled blocks of 16", block_size=16)
    alias("dsb-32", "shuffled:dsb", "dynamic shuffled blocks of 32", block_size=32)
    alias("ssb-32", "shuffled:ssb", "static shuffled blocks of 32", block_size=32)
    alias("dsb-fast-32", "shuffled:dsb_fast", "fast dynamic shuffled blocks of 32", block_size=32)
    alias("ssb-fast-32", "shuffled:ssb_fast", "fast static shuffled blocks of 32", block_size=32)
    alias("dsb-64", "shuffled:dsb", "dynamic shuffled blocks of 64", block_size=64)
    alias("ssb-64", "shuffled:ssb", "static shuffled blocks of 64", block_size=64)
    alias("dsb-fast-64", "shuffled:dsb_fast", "fast dynamic shuffled blocks of 64", block_size=64)
    alias("ssb-fast-64", "shuffled:ssb_fast", "fast static shuffled blocks of 64", block_size=64)
