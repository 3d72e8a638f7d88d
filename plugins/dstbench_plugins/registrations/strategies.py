"""The strategies: one choice of each kind makes a method."""

from __future__ import annotations

from dstbench import hookimpl
from dstbench.hookspecs import Register
from dstbench_plugins.registrations import Add, aliases, below, cited


@hookimpl
def register_init(register: Register) -> None:
    """Init: how dense each layer starts, and where."""
    add = below(register, "init")
    add("erk", "erk:ERK", "Erdős–Rényi-kernel allocation, random positions", bibtex=cited("RIGL"))
    add("uniform", "uniform:Uniform", "the same density in every layer, random positions")
    add("er", "er:ER", "Erdős–Rényi allocation, kernels ignored (SET)", bibtex=cited("SET"))
    summary = "first convolution dense, classifier at least 0.2, the rest uniform"
    add("uniform_plus", "uniform_plus:UniformPlus", summary, bibtex=cited("STATE_OF_SPARSITY"))
    add("dense", "dense:dense_init", "all weights, until the first update")
    add("magnitude", "magnitude:magnitude_init", "ERK allocation, largest initial |w|")
    add("snip", "saliency:snip", "largest |g·w| of the first batch, over all layers", bibtex=cited("SNIP"))
    add(
        "wanda", "calibrated:wanda", "largest |w|·‖X‖ of each row, by the first inputs", bibtex=cited("WANDA")
    )
    summary = "largest |correlation| of two inputs, where a layer sees the network's (CSTI)"
    add("csti", "correlated:correlated", summary, bibtex=cited("CHTS"))
    summary = "bipartite receptive fields: links around a node's place, r from nearest to random (CHTs)"
    _before_training(add)
    add("brf", "receptive_fields:receptive_fields", summary, bibtex=cited("CHTS"))
    summary = "bipartite small world: a lattice, of whose links a share moves (CHTs)"
    add("small-world", "receptive_fields:small_world", summary, bibtex=cited("CHTS"))
    summary = "butterfly factors, as many as the density holds (for structure block)"
    add("butterfly", "butterfly:butterfly", summary, bibtex=cited("PIXELFLY"))


def _before_training(add: Add) -> None:
    """Inits that look at the network before its first step."""
    summary = "largest |w·∂R/∂w| of |network| on ones, in 100 rounds, over all layers"
    add("synflow", "before_training:synflow", summary, bibtex=cited("SYNFLOW"))
    summary = "largest w·(H g), over all layers"
    add("grasp", "before_training:grasp", summary, bibtex=cited("GRASP"))
    summary = "largest |g·w| in 60 rounds, of what is left each time"
    add("snip-it", "before_training:iterative_snip", summary, bibtex=cited("FORCE"))
    summary = "largest |g·w| in 60 rounds, of all weights each time (FORCE)"
    add("force", "before_training:force", summary, bibtex=cited("FORCE"))


@hookimpl
def register_accumulator(register: Register) -> None:
    """Accumulators: what builds up over steps, for scores to read."""
    add = below(register, "accumulator")
    add("second_moment", "gradients:SecondMoment", "average of g² of active weights")
    add("movement", "gradients:Movement", "-Σ g·w of active weights", bibtex=cited("MOVEMENT"))
    add("active_count", "gradients:ActiveCount", "the steps in which a weight was active")
    add("gradient_sum", "gradients:GradientSum", "Σ g over the last steps before an update (dense)")
    summary = "‖X_j‖₂ of the inputs of the last steps before an update"
    add("input_norm", "passing:InputNorm", summary, bibtex=cited("WANDA"))
    summary = "Σ x, Σ x² or Σ x·y of inputs, or their number"
    add("input_moment", "moments:InputMoment", summary)
    passing = aliases(below(register, "accumulator", bibtex=cited("GSE")))
    passing("input_size", "passing:PassingSum", "Σ|x| of the inputs", of="input")
    passing("output_gradient_size", "passing:PassingSum", "Σ|∂L/∂y| of the outputs", of="output_gradient")
    passing("signed_input", "passing:PassingSum", "Σ ±x of the inputs", signed=True)
    summary = "Σ ±∂L/∂y of the outputs, by the same signs"
    passing("signed_output_gradient", "passing:PassingSum", summary, of="output_gradient", signed=True)


@hookimpl
def register_structure(register: Register) -> None:
    """Structure: which masks are legal."""
    add = below(register, "structure")
    summary = "any mask; heads=quota: equally many in each attention head"
    add("unstructured", "unstructured:unstructured", summary)
    add("channel", "channel:Channel", "whole output channels (rows of a linear layer)")
    summary = "weak channels go for good, one after another; the rest is unstructured (Chase)"
    add("emergent_channel", "emergent_channel:EmergentChannel", summary, bibtex=cited("CHASE"))
    summary = "dense blocks over scattered rows and columns (DSB/SSB)"
    add("shuffled_block", "shuffled_block:ShuffledBlock", summary, bibtex=cited("SHUFFLED_BLOCK"))
    add("n_of_m", "n_of_m:NOfM", "at most n of every m inputs (2:4)", bibtex=cited("N_OF_M"))
    add("block", "block:Block", "contiguous tiles of the weight matrix")
    add(
        "fan_in",
        "fan_in:FanIn",
        "equally many weights in every row, poor rows ablated (SRigL)",
        bibtex=cited("SRIGL"),
    )
    add("diagonal", "diagonal:Diagonal", "wrapped diagonals (DynaDiag's masks)")
    add("group_fan_in", "group_fan_in:GroupFanIn", "inputs that groups of rows share (HASTE)")
    summary = "another structure over random permutations of columns or rows"
    add("permuted", "permuted:Permuted", summary, bibtex=cited("PA_DST"))
    summary = "at most n of m in rows and in columns of every tile (transposable 2:4)"
    add("transposable", "transposable:TransposableNOfM", summary, bibtex=cited("TRANSPOSABLE"))


@hookimpl
def register_prune(register: Register) -> None:
    """Prune: which active weights stay."""
    add = below(register, "prune")
    add("magnitude", "magnitude:Magnitude", "keep the largest |w|")
    add("set", "set:WithinSign", "keep the largest |w| of each sign (SET)", bibtex=cited("SET"))
    add("mest", "mest:Mest", "keep the largest |w| + λ|g| (MEST)", bibtex=cited("MEST"))
    register("random", "dstbench.api:Random", summary="keep random weights")
    summary = "sample by |w|^T, T rising: nearly greedy in the end (CHTs)"
    add("soft-magnitude", "soft:Soft", summary, bibtex=cited("CHTS"))
    summary = "sample by relative importance^T, T rising (CHTs)"
    aliases(add)("soft-ri", "soft:Soft", summary, of="ri")
    summary = "keep the largest share of row plus share of column (CHTss)"
    add("ri", "importance:RelativeImportance", summary, bibtex=cited("CHTS"))
    add(
        "taylor", "taylor:Taylor", "keep the largest (g·w)²: what the loss would miss", bibtex=cited("TAYLOR")
    )
    summary = "keep the largest w² / the squares of all larger ones in the layer (LAMP)"
    add("lamp", "lamp:Lamp", summary, bibtex=cited("LAMP"))
    summary = "remove what crossed zero (Deep R)"
    add("deep-r", "signs:CrossedZero", summary, version="2", bibtex=cited("DEEP_R"))
    summary = "keep the largest |w|·‖X‖ of each output row (Wanda)"
    add("wanda", "wanda:Wanda", summary, bibtex=cited("WANDA"))
    summary = "keep the largest w²·E[g²]: what the loss would miss, to second order (OBD)"
    add("obd", "history:OptimalBrainDamage", summary, bibtex=cited("OBD"))
    summary = "keep the largest -Σ g·w: weights that move away from zero"
    add("movement", "history:MovementPruning", summary, bibtex=cited("MOVEMENT"))


@hookimpl
def register_grow(register: Register) -> None:
    """Grow: which inactive weights come to life."""
    register("random", "dstbench.api:Random", summary="random positions (SET)")
    add = below(register, "grow")
    add("gradient", "gradient:Gradient", "largest |dense gradient| (RigL)", bibtex=cited("RIGL"))
    summary = "largest |Σ g| of the last 8 steps (RigL, accumulated)"
    add("gradient-sum", "accumulated:AccumulatedGradient", summary, bibtex=cited("RIGL"))
    add("momentum", "momentum:Momentum", "largest |dense momentum| (SNFS)", bibtex=cited("SNFS"))
    summary = "largest |gradient| among random positions (GSE)"
    add("gse", "guided:GuidedExploration", summary, bibtex=cited("GSE"))
    summary = "the same, drawn by Σ|x| and Σ|∂L/∂y| (GraBo)"
    aliases(add)("gse-grabo", "guided:GuidedExploration", summary, by="grabo")
    summary = "the same, drawn by |Σ ±x| and |Σ ±∂L/∂y| (GraEst)"
    aliases(add)("gse-graest", "guided:GuidedExploration", summary, by="graest")
    summary = "where local communities of the bipartite network promise links (CHTs)"
    add("ch3-l3n", "cannistraci_hebb:CannistraciHebb", summary, bibtex=cited("CHTS"))
    summary = "the same, links within the community counted for it (CHTs)"
    aliases(add)("ch2-l3n", "cannistraci_hebb:CannistraciHebb", summary, variant="ch2")
    summary = "largest |w| that inactive weights hold (Top-KAST)"
    add("magnitude", "stored:StoredMagnitude", summary, bibtex=cited("TOP_KAST"))


@hookimpl
def register_values(register: Register) -> None:
    """Values: what weights hold at the start and where they grow, and how fast each layer learns."""
    register(
        "keep", "dstbench.api:Keep", summary="the model's own initial values, zero where weights grow (RigL)"
    )
    add = below(register, "values")
    summary = "drawn by the active weights of the units that a weight links (Evci et al.)"
    add("evci_unit", "scaled:UnitScaled", summary, bibtex=cited("GRADIENT_FLOW"))
    summary = "the model's own initial values / √density, by layer (Evci et al.)"
    add("evci_layer", "scaled:LayerScaled", summary, bibtex=cited("GRADIENT_FLOW"))
    summary = "normal, by the mean active weights of an input (SWI of CHTs)"
    add("swi", "scaled:MeanFanOut", summary, bibtex=cited("CHTS"))
    summary = "the model's own initial values × √(columns / active columns) of a row (Pixelfly)"
    add("pixelfly", "scaled:RowScaled", summary, bibtex=cited("PIXELFLY"))
    summary = "initial values and learning rates by density, for masks that stay (SμPar)"
    add("supar", "supar:SparseMaximalUpdate", summary, bibtex=cited("SUPAR"))
    add(
        "last",
        "grown:LastValue",
        "grown weights take the value that they last had (CHTs)",
        bibtex=cited("CHTS"),
    )
    add("uniform", "grown:UniformGrown", "grown weights are uniform within ±1/√fan-in (HASTE)")
    summary = "learning rates start anew behind each topology update (inoam of CHTs)"
    add("lr_restart", "restart:Restart", summary, bibtex=cited("CHTS"))
    summary = "each position has a sign for good; weights drift towards zero (Deep R)"
    add("deep-r", "fixed_signs:FixedSigns", summary, bibtex=cited("DEEP_R"))
    summary = "a penalty that is stronger on what trains without being active (Top-KAST)"
    add("top-kast", "penalty:ExplorationPenalty", summary, bibtex=cited("TOP_KAST"))


@hookimpl
def register_share(register: Register) -> None:
    """Share: how many weights in which layer."""
    add = below(register, "init")  # an init without a score of its own
    add("erk", "erk:ERK", "by Σ shape: Erdős–Rényi-kernel", bibtex=cited("RIGL"))
    add("uniform", "uniform:Uniform", "by the number of weights")
    add("er", "er:ER", "by (in + out) · kernel: Erdős–Rényi", bibtex=cited("SET"))
    register("in_place", "dstbench.api:InPlace", summary="each layer goes back to its own allocation")
    add = below(register, "share")
    add("global", "rank:Global", "by rank among the scores of all layers")
    add(
        "momentum",
        "momentum:MeanMomentum",
        "by mean |momentum| of active weights (SNFS)",
        bibtex=cited("SNFS"),
    )
    add("survivors", "survivors:Survivors", "by the weights that survived pruning (DSR)", bibtex=cited("DSR"))


@hookimpl
def register_schedule(register: Register) -> None:
    """Schedule: when the topology changes, and to which densities."""
    add = below(register, "schedule")
    add("cosine", "dst:Cosine", "drop fraction falls as a cosine until T_end (RigL)", bibtex=cited("RIGL"))
    add("constant", "dst:Constant", "constant drop fraction ζ (SET)", bibtex=cited("SET"))
    add("cubic", "dense_to_sparse:Cubic", "density falls cubically (GMP, GraNet)", bibtex=cited("GMP"))
    add(
        "soft_memory",
        "soft_memory:SoftMemory",
        "prune to d, then grow above it, ever less (MEST, Chase)",
        bibtex=cited("MEST"),
    )
    add("elastic", "elastic:Elastic", "exploration falls in steps (MEST EM, EM&S)", bibtex=cited("MEST"))
    add(
        "lengthening",
        "lengthening:Lengthening",
        "constant fraction, rewiring ever more rarely (DSR)",
        bibtex=cited("DSR"),
    )
    summary = "above the density until T_A, then exactly at it (Chase)"
    add("soft_then_hard", "soft_then_hard:SoftThenHard", summary, bibtex=cited("CHASE"))
    summary = "drop fraction falls as (1 - t/T_end)^k"
    add("inverse_power", "dst:InversePower", summary, bibtex=cited("RIGL"))
    add("sigmoid", "dense_to_sparse:Sigmoid", "density falls along a sigmoid (CHTss)", bibtex=cited("CHTS"))
    summary = "sparse and dense phases by turns (AC/DC)"
    add("alternating", "alternating:Alternating", summary, bibtex=cited("ACDC"))
    summary = "density rises and falls in cycles, then plain DST (EAST)"
    add("cyclic", "cyclic:Cyclic", summary, bibtex=cited("EAST"))
    summary = "the active set drawn up anew, a superset of it trained (Top-KAST)"
    add("top-kast", "top_kast:TopKast", summary, bibtex=cited("TOP_KAST"))
    add("never", "dst:Never", "static: the mask of the start")
