"""The built-in strategies, models and data sets, through the same door as anyone's.

Every target is a string, so that listing the registry imports none of them.
"""

from __future__ import annotations

from dstbench import hookimpl
from dstbench.hookspecs import Register

_HERE = __name__


@hookimpl
def register_init(register: Register) -> None:
    """Init: how dense each layer starts, and where."""
    register("erk", f"{_HERE}.init.erk:ERK", summary="Erdős–Rényi-kernel allocation, random positions")
    register(
        "uniform",
        f"{_HERE}.init.uniform:Uniform",
        summary="the same density in every layer, random positions",
    )
    register("er", f"{_HERE}.init.er:ER", summary="Erdős–Rényi allocation, kernels ignored (SET)")
    register(
        "uniform_plus",
        f"{_HERE}.init.uniform_plus:UniformPlus",
        summary="first convolution dense, classifier at least 0.2, the rest uniform",
    )
    register("dense", f"{_HERE}.init.dense:dense_init", summary="all weights, until the first update")
    register(
        "magnitude", f"{_HERE}.init.magnitude:magnitude_init", summary="ERK allocation, largest initial |w|"
    )
    register(
        "snip", f"{_HERE}.init.saliency:snip", summary="largest |g·w| of the first batch, over all layers"
    )


@hookimpl
def register_structure(register: Register) -> None:
    """Structure: which masks are legal."""
    register("unstructured", "dstbench.core.structures:Unstructured", summary="any mask")
    register(
        "channel",
        f"{_HERE}.structure.channel:Channel",
        summary="whole output channels (rows of a linear layer)",
    )
    register(
        "emergent_channel",
        f"{_HERE}.structure.emergent_channel:EmergentChannel",
        summary="weak channels go for good, one after another; the rest is unstructured (Chase)",
    )
    register(
        "shuffled_block",
        f"{_HERE}.structure.shuffled_block:ShuffledBlock",
        summary="dense blocks over scattered rows and columns (DSB/SSB)",
    )
    register("n_of_m", f"{_HERE}.structure.n_of_m:NOfM", summary="at most n of every m inputs (2:4)")
    register("block", f"{_HERE}.structure.block:Block", summary="contiguous tiles of the weight matrix")
    register(
        "fan_in",
        f"{_HERE}.structure.fan_in:FanIn",
        summary="equally many weights in every row, poor rows ablated (SRigL)",
    )


@hookimpl
def register_prune(register: Register) -> None:
    """Prune: which active weights stay."""
    register("magnitude", f"{_HERE}.prune.magnitude:Magnitude", summary="keep the largest |w|")
    register("set", f"{_HERE}.prune.set:WithinSign", summary="keep the largest |w| of each sign (SET)")
    register("mest", f"{_HERE}.prune.mest:Mest", summary="keep the largest |w| + λ|g| (MEST)")
    register("random", "dstbench.api:Random", summary="keep random weights")


@hookimpl
def register_grow(register: Register) -> None:
    """Grow: which inactive weights come to life."""
    register("random", "dstbench.api:Random", summary="random positions (SET)")
    register("gradient", f"{_HERE}.grow.gradient:Gradient", summary="largest |dense gradient| (RigL)")
    register("momentum", f"{_HERE}.grow.momentum:Momentum", summary="largest |dense momentum| (SNFS)")


@hookimpl
def register_share(register: Register) -> None:
    """Share: how many weights in which layer."""
    register("erk", f"{_HERE}.init.erk:ERK", summary="by Σ shape: Erdős–Rényi-kernel")
    register("uniform", f"{_HERE}.init.uniform:Uniform", summary="by the number of weights")
    register("er", f"{_HERE}.init.er:ER", summary="by (in + out) · kernel: Erdős–Rényi")
    register("in_place", "dstbench.api:InPlace", summary="each layer goes back to its own allocation")
    register("global", f"{_HERE}.share.rank:Global", summary="by rank among the scores of all layers")
    register(
        "momentum",
        f"{_HERE}.share.momentum:MeanMomentum",
        summary="by mean |momentum| of active weights (SNFS)",
    )
    register(
        "survivors",
        f"{_HERE}.share.survivors:Survivors",
        summary="by the weights that survived pruning (DSR)",
    )


@hookimpl
def register_schedule(register: Register) -> None:
    """Schedule: when the topology changes, and to which densities."""
    register(
        "cosine", f"{_HERE}.schedule.dst:Cosine", summary="drop fraction falls as a cosine until T_end (RigL)"
    )
    register("constant", f"{_HERE}.schedule.dst:Constant", summary="constant drop fraction ζ (SET)")
    register(
        "cubic", f"{_HERE}.schedule.dense_to_sparse:Cubic", summary="density falls cubically (GMP, GraNet)"
    )
    register(
        "soft_memory",
        f"{_HERE}.schedule.soft_memory:SoftMemory",
        summary="prune to d, then grow above it (MEST EM&S)",
    )
    register(
        "elastic", f"{_HERE}.schedule.elastic:Elastic", summary="exploration falls in steps (MEST EM, EM&S)"
    )
    register(
        "lengthening",
        f"{_HERE}.schedule.lengthening:Lengthening",
        summary="constant fraction, rewiring ever more rarely (DSR)",
    )
    register(
        "soft_then_hard",
        f"{_HERE}.schedule.soft_then_hard:SoftThenHard",
        summary="above the density until T_A, then exactly at it (Chase)",
    )
    register("never", f"{_HERE}.schedule.dst:Never", summary="static: the mask of the start")


@hookimpl
def register_recipe(register: Register) -> None:
    """Recipes: published methods as named choices of the parts above."""
    recipes = f"{_HERE}.recipes"
    controls, dst = f"{recipes}.controls", f"{recipes}.dst"
    register("dense", f"{controls}:dense", summary="no sparsity", control="dense")
    register(
        "small-dense",
        f"{controls}:small_dense",
        summary="a narrower dense model of as many parameters",
        control="small-dense",
    )
    register(
        "static",
        f"{controls}:static",
        summary="random sparse from the start, never updated",
        control="static",
    )
    register("snip", f"{controls}:snip", summary="SNIP: sparse by saliency at the first batch, never updated")
    register("set", f"{dst}:set_", summary="SET as in the RigL paper: magnitude, random")
    register(
        "set-author", f"{dst}:set_author", summary="SET as its authors': within sign, constant, per epoch"
    )
    register("set-itop", f"{dst}:set_itop", summary="SET with long periods over all of the training")
    register("rigl", f"{dst}:rigl", summary="RigL: magnitude, gradient, cosine")
    register("rigl-uniform", f"{dst}:rigl_uniform", summary="RigL, uniform with a dense first convolution")
    register("rigl-5x", f"{dst}:rigl_5x", summary="RigL, trained five times as long")
    register("rigl-itop", f"{dst}:rigl_itop", summary="RigL with long periods over all of the training")
    register("rigl-itop-2x", f"{dst}:rigl_itop_2x", summary="RigL-ITOP, trained twice as long")
    register("snfs", f"{dst}:snfs", version="2", summary="SNFS: magnitude, momentum, shared by mean momentum")
    register("dsr", f"{dst}:dsr", summary="DSR: global magnitude, random, shared by survivors")
    register("mest", f"{dst}:mest", version="2", summary="MEST with elastic mutation (EM)")
    register("mest-ems", f"{dst}:mest_ems", summary="MEST above its density until late (EM&S)")
    register("mest-1.5x", f"{dst}:mest_1_5x", summary="MEST (EM), trained one and a half times as long")
    dense_to_sparse = f"{recipes}.dense_to_sparse"
    register("gmp", f"{dense_to_sparse}:gmp", version="2", summary="gradual magnitude pruning from dense")
    register("granet", f"{dense_to_sparse}:granet", summary="GraNet: gradual pruning with gradient regrowth")
    register("srigl", f"{recipes}.srigl:srigl", summary="SRigL: RigL with a constant fan-in")
    blocks = f"{recipes}.shuffled"
    register(
        "dsb", f"{blocks}:dsb", summary="dynamic shuffled blocks; dsb-16, dsb-32, dsb-64 set the block size"
    )
    register(
        "ssb", f"{blocks}:ssb", summary="static shuffled blocks; ssb-16, ssb-32, ssb-64 set the block size"
    )
    chase = f"{recipes}.chase"
    register("chase", f"{chase}:chase", summary="Chase: soft memory bound, weak channels removed for good")
    for name, percent in (("0", 0), ("03", 30), ("04", 40), ("05", 50)):
        label = name if name == "0" else f"0.{name[1]}"
        register(f"chase-{label}", f"{chase}:chase_{name}", summary=f"Chase, {percent} % of channels removed")
        if percent < 50:
            summary = f"Chase, {percent} % of channels removed, 1.5 times as long"
            register(f"chase-1.5x-{label}", f"{chase}:chase_long_{name}", summary=summary)
    for size in (16, 32, 64):
        register(f"dsb-{size}", f"{blocks}:dsb_{size}", summary=f"dynamic shuffled blocks of {size}")
        register(f"ssb-{size}", f"{blocks}:ssb_{size}", summary=f"static shuffled blocks of {size}")


@hookimpl
def register_model(register: Register) -> None:
    """Models: built-in ones for small images, and any of timm's."""
    models = f"{_HERE}.models"
    register(
        "small_cnn",
        f"{models}.small_cnn:small_cnn",
        summary="three 3x3 convolutions and two linear layers",
        input_shape=(1, 8, 8),
    )
    register(
        "lenet300-100",
        f"{models}.lenet:lenet300_100",
        summary="784-300-100-10 perceptron",
        input_shape=(1, 28, 28),
    )
    register(
        "lenet5",
        f"{models}.lenet:lenet5",
        summary="two 5x5 convolutions, two linear layers",
        input_shape=(1, 28, 28),
    )
    register(
        "set-mlp",
        f"{models}.set_mlp:set_mlp",
        summary="3072-4000-1000-4000-10 perceptron of SET, SReLU",
        input_shape=(3, 32, 32),
    )
    register(
        "alexnet-s",
        f"{models}.alexnet:alexnet_s",
        summary="five strided convolutions; linear layers of 1024",
        input_shape=(3, 32, 32),
    )
    register(
        "alexnet-b",
        f"{models}.alexnet:alexnet_b",
        summary="five strided convolutions; linear layers of 2048",
        input_shape=(3, 32, 32),
    )
    register(
        "vgg-c",
        f"{models}.vgg:vgg_c",
        summary="VGG-16 with three 1x1 convolutions; linear layers of 512",
        input_shape=(3, 32, 32),
    )
    register(
        "vgg-d", f"{models}.vgg:vgg_d", summary="VGG-16 with linear layers of 512", input_shape=(3, 32, 32)
    )
    register(
        "vgg-like",
        f"{models}.vgg:vgg_like",
        summary="VGG-16 with one hidden linear layer of 512",
        input_shape=(3, 32, 32),
    )
    register(
        "vgg19",
        f"{models}.vgg:vgg19",
        summary="sixteen 3x3 convolutions, one linear layer",
        input_shape=(3, 32, 32),
    )
    register(
        "cifar_resnet_20",
        f"{models}.resnet:cifar_resnet_20",
        summary="16/32/64 wide, 3 blocks a stage",
        input_shape=(3, 32, 32),
    )
    register(
        "cifar_resnet_32",
        f"{models}.resnet:cifar_resnet_32",
        summary="16/32/64 wide, 5 blocks a stage",
        input_shape=(3, 32, 32),
    )
    register(
        "wrn-22-2",
        f"{models}.wrn:wrn_22_2",
        summary="wide, pre-activation: 32/64/128 wide, 3 blocks a stage",
        input_shape=(3, 32, 32),
    )
    register(
        "wrn-28-2",
        f"{models}.wrn:wrn_28_2",
        summary="wide, pre-activation: 32/64/128 wide, 4 blocks a stage",
        input_shape=(3, 32, 32),
    )
    register(
        "wrn-22-8",
        f"{models}.wrn:wrn_22_8",
        summary="wide, pre-activation: 128/256/512 wide, 3 blocks a stage",
        input_shape=(3, 32, 32),
    )
    register(
        "wrn-16-8",
        f"{models}.wrn:wrn_16_8",
        summary="wide, pre-activation: 128/256/512 wide, 2 blocks a stage",
        input_shape=(3, 32, 32),
    )
    register(
        "wrn-16-10",
        f"{models}.wrn:wrn_16_10",
        summary="wide, pre-activation: 160/320/640 wide, 2 blocks a stage",
        input_shape=(3, 32, 32),
    )
    register(
        "resnet18-cifar",
        f"{models}.resnet:resnet18_cifar",
        summary="ResNet-18 for 32x32 images",
        input_shape=(3, 32, 32),
    )
    register(
        "resnet34-cifar",
        f"{models}.resnet:resnet34_cifar",
        summary="ResNet-34 for 32x32 images",
        input_shape=(3, 32, 32),
    )
    register(
        "resnet50-cifar",
        f"{models}.resnet:resnet50_cifar",
        summary="ResNet-50 for 32x32 images",
        input_shape=(3, 32, 32),
    )
    register(
        "resnet18", f"{models}.resnet:resnet18", summary="ResNet-18 for ImageNet", input_shape=(3, 224, 224)
    )
    register(
        "resnet34", f"{models}.resnet:resnet34", summary="ResNet-34 for ImageNet", input_shape=(3, 224, 224)
    )
    register(
        "resnet50",
        f"{models}.resnet:resnet50",
        summary="ResNet-50 v1.5 for ImageNet",
        input_shape=(3, 224, 224),
    )
    register(
        "timm:",
        f"{models}.timm_models:timm_model",
        summary="any timm model, such as timm:resnet18",
        input_shape=(3, 224, 224),
    )


@hookimpl
def register_dataset(register: Register) -> None:
    """Data sets: one that needs no download, torchvision's, image files by folder, and noise for throughput."""
    data = f"{_HERE}.datasets"
    register(
        "digits",
        f"{data}.digits:Digits",
        summary="scikit-learn's 1,797 real 8x8 scans; ships with it",
        train_images=1258,
        validation_images=180,
        test_images=359,
        revision="1",
        input_shape=(1, 8, 8),
        num_classes=10,
    )
    register(
        "mnist",
        f"{data}.torchvision_sets:MNIST",
        summary="70,000 handwritten digits, 28x28",
        train_images=55000,
        validation_images=5000,
        test_images=10000,
        revision="1",
        input_shape=(1, 28, 28),
        num_classes=10,
    )
    register(
        "fashion-mnist",
        f"{data}.torchvision_sets:FashionMNIST",
        summary="70,000 pieces of clothing, 28x28",
        train_images=55000,
        validation_images=5000,
        test_images=10000,
        revision="1",
        input_shape=(1, 28, 28),
        num_classes=10,
    )
    register(
        "cifar10",
        f"{data}.torchvision_sets:CIFAR10",
        summary="60,000 photographs of 10 classes, 32x32",
        train_images=45000,
        validation_images=5000,
        test_images=10000,
        presets=("chase", "dsb", "itop", "mest", "plain", "rigl", "snfs"),
        revision="1",
        input_shape=(3, 32, 32),
        num_classes=10,
    )
    register(
        "cifar100",
        f"{data}.torchvision_sets:CIFAR100",
        summary="60,000 photographs of 100 classes, 32x32",
        train_images=45000,
        validation_images=5000,
        test_images=10000,
        presets=("chase", "dsb", "itop", "mest", "plain"),
        revision="1",
        input_shape=(3, 32, 32),
        num_classes=100,
    )
    register(
        "tiny-imagenet",
        f"{data}.image_folders:TinyImageNet",
        summary="110,000 photographs of 200 classes, 64x64, read from files",
        train_images=90_000,
        validation_images=10_000,
        test_images=10_000,
        presets=("dsb", "plain"),
        revision="1",
        input_shape=(3, 64, 64),
        num_classes=200,
    )
    register(
        "imagenet",
        f"{data}.image_folders:ImageNet",
        summary="1,331,167 photographs of 1,000 classes, 224x224, read from files",
        train_images=1_271_167,
        validation_images=10_000,
        test_images=50_000,
        revision="1",
        input_shape=(3, 224, 224),
        num_classes=1000,
    )
    register(
        "synthetic",
        f"{data}.synthetic:Synthetic",
        summary="noise with learnable labels, for throughput",
        train_images=2048,
        validation_images=512,
        test_images=512,
        revision="1",
        input_shape=(3, 32, 32),
        num_classes=10,
    )


@hookimpl
def register_executor(register: Register) -> None:
    """Executors: what runs the trials of a plan."""
    register("local", "dstbench.runner.local:run_local", summary="one forked process a trial on this machine")
