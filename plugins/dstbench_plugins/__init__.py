"""The built-in strategies, models and data sets, through the same door as anyone's.

Every target is a string, so that listing the registry imports none of them.
"""

from __future__ import annotations

from typing import Any, Protocol

from dstbench import hookimpl
from dstbench.hookspecs import Register


class _Add(Protocol):
    """``Register`` with a target below a package, and metadata or an alias's parameters."""

    def __call__(self, name: str, target: str, summary: str, **more: Any) -> None:
        """Register ``package.target``."""
        ...


def _below(register: Register, package: str, **common: Any) -> _Add:
    """``register`` for targets in modules of one package here, with the metadata that all of them have."""

    def add(name: str, target: str, summary: str, **metadata: Any) -> None:
        register(name, f"{__name__}.{package}.{target}", summary=summary, **common, **metadata)

    return add


def _cited(paper: str) -> str:
    """Where its BibTeX stands."""
    return f"{__name__}.references:{paper}"


def _alias(add: _Add) -> _Add:
    """``add`` for names of a target with some of its parameters set."""
    return lambda name, target, summary, **parameters: add(name, target, summary, parameters=parameters)


@hookimpl
def register_init(register: Register) -> None:
    """Init: how dense each layer starts, and where."""
    add = _below(register, "init")
    add("erk", "erk:ERK", "Erdős–Rényi-kernel allocation, random positions", bibtex=_cited("RIGL"))
    add("uniform", "uniform:Uniform", "the same density in every layer, random positions")
    add("er", "er:ER", "Erdős–Rényi allocation, kernels ignored (SET)", bibtex=_cited("SET"))
    summary = "first convolution dense, classifier at least 0.2, the rest uniform"
    add("uniform_plus", "uniform_plus:UniformPlus", summary, bibtex=_cited("STATE_OF_SPARSITY"))
    add("dense", "dense:dense_init", "all weights, until the first update")
    add("magnitude", "magnitude:magnitude_init", "ERK allocation, largest initial |w|")
    add("snip", "saliency:snip", "largest |g·w| of the first batch, over all layers", bibtex=_cited("SNIP"))


@hookimpl
def register_structure(register: Register) -> None:
    """Structure: which masks are legal."""
    add = _below(register, "structure")
    add(
        "unstructured",
        "unstructured:unstructured",
        "any mask; heads=quota: equally many in each attention head",
    )
    add("channel", "channel:Channel", "whole output channels (rows of a linear layer)")
    summary = "weak channels go for good, one after another; the rest is unstructured (Chase)"
    add("emergent_channel", "emergent_channel:EmergentChannel", summary, bibtex=_cited("CHASE"))
    summary = "dense blocks over scattered rows and columns (DSB/SSB)"
    add("shuffled_block", "shuffled_block:ShuffledBlock", summary, bibtex=_cited("SHUFFLED_BLOCK"))
    add("n_of_m", "n_of_m:NOfM", "at most n of every m inputs (2:4)", bibtex=_cited("N_OF_M"))
    add("block", "block:Block", "contiguous tiles of the weight matrix")
    add(
        "fan_in",
        "fan_in:FanIn",
        "equally many weights in every row, poor rows ablated (SRigL)",
        bibtex=_cited("SRIGL"),
    )


@hookimpl
def register_prune(register: Register) -> None:
    """Prune: which active weights stay."""
    add = _below(register, "prune")
    add("magnitude", "magnitude:Magnitude", "keep the largest |w|")
    add("set", "set:WithinSign", "keep the largest |w| of each sign (SET)", bibtex=_cited("SET"))
    add("mest", "mest:Mest", "keep the largest |w| + λ|g| (MEST)", bibtex=_cited("MEST"))
    register("random", "dstbench.api:Random", summary="keep random weights")


@hookimpl
def register_grow(register: Register) -> None:
    """Grow: which inactive weights come to life."""
    register("random", "dstbench.api:Random", summary="random positions (SET)")
    add = _below(register, "grow")
    add("gradient", "gradient:Gradient", "largest |dense gradient| (RigL)", bibtex=_cited("RIGL"))
    add("momentum", "momentum:Momentum", "largest |dense momentum| (SNFS)", bibtex=_cited("SNFS"))


@hookimpl
def register_share(register: Register) -> None:
    """Share: how many weights in which layer."""
    add = _below(register, "init")  # an init without a score of its own
    add("erk", "erk:ERK", "by Σ shape: Erdős–Rényi-kernel", bibtex=_cited("RIGL"))
    add("uniform", "uniform:Uniform", "by the number of weights")
    add("er", "er:ER", "by (in + out) · kernel: Erdős–Rényi", bibtex=_cited("SET"))
    register("in_place", "dstbench.api:InPlace", summary="each layer goes back to its own allocation")
    add = _below(register, "share")
    add("global", "rank:Global", "by rank among the scores of all layers")
    add(
        "momentum",
        "momentum:MeanMomentum",
        "by mean |momentum| of active weights (SNFS)",
        bibtex=_cited("SNFS"),
    )
    add(
        "survivors", "survivors:Survivors", "by the weights that survived pruning (DSR)", bibtex=_cited("DSR")
    )


@hookimpl
def register_schedule(register: Register) -> None:
    """Schedule: when the topology changes, and to which densities."""
    add = _below(register, "schedule")
    add("cosine", "dst:Cosine", "drop fraction falls as a cosine until T_end (RigL)", bibtex=_cited("RIGL"))
    add("constant", "dst:Constant", "constant drop fraction ζ (SET)", bibtex=_cited("SET"))
    add("cubic", "dense_to_sparse:Cubic", "density falls cubically (GMP, GraNet)", bibtex=_cited("GMP"))
    add(
        "soft_memory",
        "soft_memory:SoftMemory",
        "prune to d, then grow above it, ever less (MEST, Chase)",
        bibtex=_cited("MEST"),
    )
    add("elastic", "elastic:Elastic", "exploration falls in steps (MEST EM, EM&S)", bibtex=_cited("MEST"))
    add(
        "lengthening",
        "lengthening:Lengthening",
        "constant fraction, rewiring ever more rarely (DSR)",
        bibtex=_cited("DSR"),
    )
    summary = "above the density until T_A, then exactly at it (Chase)"
    add("soft_then_hard", "soft_then_hard:SoftThenHard", summary, bibtex=_cited("CHASE"))
    add("never", "dst:Never", "static: the mask of the start")


@hookimpl
def register_recipe(register: Register) -> None:
    """Recipes: published methods as named choices of the parts above."""
    add = _below(register, "recipes")
    alias = _alias(add)
    add("dense", "controls:dense", "no sparsity", control="dense")
    summary = "a narrower dense model of as many parameters"
    add("small-dense", "controls:small_dense", summary, control="small-dense")
    add("static", "controls:static", "random sparse from the start, never updated", control="static")
    add(
        "snip",
        "controls:snip",
        "SNIP: sparse by saliency at the first batch, never updated",
        bibtex=_cited("SNIP"),
    )
    add("set", "dst:set_", "SET as in the RigL paper: magnitude, random", bibtex=_cited("SET"))
    add(
        "set-author",
        "dst:set_author",
        "SET as its authors': within sign, constant, per epoch",
        bibtex=_cited("SET"),
    )
    add("set-itop", "dst:set_itop", "SET with long periods over all of the training", bibtex=_cited("ITOP"))
    add("rigl", "dst:rigl", "RigL: magnitude, gradient, cosine", bibtex=_cited("RIGL"))
    add(
        "rigl-uniform",
        "dst:rigl_uniform",
        "RigL, uniform with a dense first convolution",
        bibtex=_cited("RIGL"),
    )
    alias("rigl-5x", "dst:rigl", "RigL, trained five times as long", multiplier=5.0)
    add(
        "rigl-itop", "dst:rigl_itop", "RigL with long periods over all of the training", bibtex=_cited("ITOP")
    )
    alias("rigl-itop-2x", "dst:rigl_itop", "RigL-ITOP, trained twice as long", multiplier=2.0)
    add(
        "snfs",
        "dst:snfs",
        "SNFS: magnitude, momentum, shared by mean momentum",
        version="2",
        bibtex=_cited("SNFS"),
    )
    add("dsr", "dst:dsr", "DSR: global magnitude, random, shared by survivors", bibtex=_cited("DSR"))
    add("mest", "dst:mest", "MEST with elastic mutation (EM)", version="2", bibtex=_cited("MEST"))
    add("mest-ems", "dst:mest_ems", "MEST above its density until late (EM&S)", bibtex=_cited("MEST"))
    alias("mest-1.5x", "dst:mest", "MEST (EM), trained one and a half times as long", multiplier=1.5)
    add(
        "gmp",
        "dense_to_sparse:gmp",
        "gradual magnitude pruning from dense",
        version="2",
        bibtex=_cited("GMP"),
    )
    add(
        "granet",
        "dense_to_sparse:granet",
        "GraNet: gradual pruning with gradient regrowth",
        bibtex=_cited("GRANET"),
    )
    add("srigl", "srigl:srigl", "SRigL: RigL with a constant fan-in", bibtex=_cited("SRIGL"))
    add(
        "dsb",
        "shuffled:dsb",
        "dynamic shuffled blocks; dsb-16, dsb-32, dsb-64 set the block size",
        bibtex=_cited("SHUFFLED_BLOCK"),
    )
    add(
        "ssb",
        "shuffled:ssb",
        "static shuffled blocks; ssb-16, ssb-32, ssb-64 set the block size",
        bibtex=_cited("SHUFFLED_BLOCK"),
    )
    add(
        "dsb-fast",
        "shuffled:dsb_fast",
        "dsb of whole in-channels, equally many in every group: runs fast",
        bibtex=_cited("SHUFFLED_BLOCK"),
    )
    add(
        "ssb-fast",
        "shuffled:ssb_fast",
        "the same, static; ssb-fast-16, ssb-fast-32, ssb-fast-64",
        bibtex=_cited("SHUFFLED_BLOCK"),
    )
    add(
        "chase",
        "chase:chase",
        "Chase: soft memory bound, weak channels removed for good",
        bibtex=_cited("CHASE"),
    )
    _chase_aliases(alias)
    _block_aliases(alias)


def _chase_aliases(alias: _Add) -> None:
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


def _block_aliases(alias: _Add) -> None:
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


@hookimpl
def register_model(register: Register) -> None:
    """Models: built-in ones for small images and for ImageNet, and any of timm's."""
    add = _below(register, "models", input_shape=(1, 8, 8))
    add("small_cnn", "small_cnn:small_cnn", "three 3x3 convolutions and two linear layers")
    add = _below(register, "models", input_shape=(1, 28, 28))
    add("lenet300-100", "lenet:lenet300_100", "784-300-100-10 perceptron")
    add("lenet5", "lenet:lenet5", "two 5x5 convolutions, two linear layers")
    add = _below(register, "models", input_shape=(3, 32, 32))
    add("set-mlp", "set_mlp:set_mlp", "3072-4000-1000-4000-10 perceptron of SET, SReLU")
    add("alexnet-s", "alexnet:alexnet_s", "five strided convolutions; linear layers of 1024")
    add("alexnet-b", "alexnet:alexnet_b", "five strided convolutions; linear layers of 2048")
    add("vgg-c", "vgg:vgg_c", "VGG-16 with three 1x1 convolutions; linear layers of 512")
    add("vgg-d", "vgg:vgg_d", "VGG-16 with linear layers of 512")
    add("vgg-like", "vgg:vgg_like", "VGG-16 with one hidden linear layer of 512")
    add("vgg19", "vgg:vgg19", "sixteen 3x3 convolutions, one linear layer")
    add("cifar_resnet_20", "resnet:cifar_resnet_20", "16/32/64 wide, 3 blocks a stage")
    add("cifar_resnet_32", "resnet:cifar_resnet_32", "16/32/64 wide, 5 blocks a stage")
    add("wrn-22-2", "wrn:wrn_22_2", "wide, pre-activation: 32/64/128 wide, 3 blocks a stage")
    add("wrn-28-2", "wrn:wrn_28_2", "wide, pre-activation: 32/64/128 wide, 4 blocks a stage")
    add("wrn-22-8", "wrn:wrn_22_8", "wide, pre-activation: 128/256/512 wide, 3 blocks a stage")
    add("wrn-16-8", "wrn:wrn_16_8", "wide, pre-activation: 128/256/512 wide, 2 blocks a stage")
    add("wrn-16-10", "wrn:wrn_16_10", "wide, pre-activation: 160/320/640 wide, 2 blocks a stage")
    add("resnet18-cifar", "resnet:resnet18_cifar", "ResNet-18 for 32x32 images")
    add("resnet34-cifar", "resnet:resnet34_cifar", "ResNet-34 for 32x32 images")
    add("resnet50-cifar", "resnet:resnet50_cifar", "ResNet-50 for 32x32 images")
    add = _below(register, "models", input_shape=(3, 224, 224))
    add("resnet18", "resnet:resnet18", "ResNet-18 for ImageNet")
    add("resnet34", "resnet:resnet34", "ResNet-34 for ImageNet")
    add("resnet50", "resnet:resnet50", "ResNet-50 v1.5 for ImageNet")
    add("timm:", "timm_models:timm_model", "any timm model, such as timm:resnet18")


@hookimpl
def register_dataset(register: Register) -> None:
    """Data sets: one that needs no download, torchvision's, image files by folder, and noise for throughput."""
    below = _below(register, "datasets", revision="1")

    def add(
        name: str,
        target: str,
        summary: str,
        images: tuple[int, int, int],  # to train, to validate, to test
        input_shape: tuple[int, int, int],
        num_classes: int = 10,
        **metadata: Any,
    ) -> None:
        counts = zip(("train_images", "validation_images", "test_images"), images, strict=True)
        metadata |= {**dict(counts), "input_shape": input_shape, "num_classes": num_classes}
        below(name, target, summary, **metadata)

    small, grey, colour = "torchvision_sets", (1, 28, 28), (3, 32, 32)
    summary = "scikit-learn's 1,797 real 8x8 scans; ships with it"
    add("digits", "digits:Digits", summary, (1258, 180, 359), (1, 8, 8))
    summary = "70,000 handwritten digits, 28x28"
    add("mnist", f"{small}:MNIST", summary, (55_000, 5_000, 10_000), grey)
    summary = "70,000 pieces of clothing, 28x28"
    add("fashion-mnist", f"{small}:FashionMNIST", summary, (55_000, 5_000, 10_000), grey)
    add(
        "cifar10", f"{small}:CIFAR10", "60,000 photographs of 10 classes, 32x32",
        (45_000, 5_000, 10_000), colour,
        presets=("chase", "dsb", "itop", "mest", "plain", "rigl", "snfs"),
    )  # fmt: skip
    add(
        "cifar100", f"{small}:CIFAR100", "60,000 photographs of 100 classes, 32x32",
        (45_000, 5_000, 10_000), colour, 100,
        presets=("chase", "dsb", "itop", "mest", "plain"),
    )  # fmt: skip
    add(
        "tiny-imagenet", "image_folders:TinyImageNet",
        "110,000 photographs of 200 classes, 64x64, read from files",
        (90_000, 10_000, 10_000), (3, 64, 64), 200,
        presets=("dsb", "plain"),
    )  # fmt: skip
    add(
        "imagenet", "image_folders:ImageNet",
        "1,331,167 photographs of 1,000 classes, 224x224, read from files",
        (1_271_167, 10_000, 50_000), (3, 224, 224), 1000,
    )  # fmt: skip
    below("folder", "own_folder:ImageFolder", "images of your own, a folder a class")
    summary = "noise with learnable labels, for throughput"
    add("synthetic", "synthetic:Synthetic", summary, (2048, 512, 512), colour)


@hookimpl
def register_executor(register: Register) -> None:
    """Executors: what runs the trials of a plan."""
    register(
        "local",
        "dstbench.runner.execution.order:carry_out",
        summary="one forked process a trial on this machine",
    )
    register("slurm", "dstbench.runner.cluster.slurm:Slurm", summary="arrays of workers in SLURM's queue")
    register("ray", "dstbench.runner.cluster.ray:Ray", summary="workers on a Ray cluster")
