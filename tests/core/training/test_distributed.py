"""Two processes, one topology: over gloo, with other data, other weights and other global seeds on each rank."""

import os
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent

PEER = """
import sys, datetime
import torch
import torch.distributed as dist
torch.set_num_threads(1)
from fakes import ranks
rank, port, scenarios, out = int(sys.argv[1]), sys.argv[2], sys.argv[3].split(","), sys.argv[4]
store = dist.TCPStore("127.0.0.1", int(port), 2, rank == 0, timeout=datetime.timedelta(seconds=60))
dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=datetime.timedelta(seconds=60))
torch.save({name: getattr(ranks, name)(rank) for name in scenarios}, f"{out}/{rank}.pt")
dist.destroy_process_group()
"""


SCENARIOS = (
    "random", "gradient", "momentum", "shared_by_weights", "saliency", "channel", "unequal_seeds",
    "unequal_weights", "unequal_periods", "unequal_growth", "unequal_objects", "unequal_densities",
    "unequal_lengths", "unequal_epochs", "unequal_shapes", "unequal_layers", "made_on_one", "score_differs",
    "score_raises", "score_is_nan", "init_raises", "same_objects", "gradient_on_one",
    "joined", "without_ddp", "condensed", "condensed_alone",
    "accumulated", "squares", "norms", "rounds", "topological", "loss_raises",
    "valued", "remembering", "values_raise",
)  # fmt: skip


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What each of the scenarios returned on rank 0 and on rank 1, from one pair of processes."""
    out = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "random"}
    peers = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", PEER, str(rank), str(port), ",".join(SCENARIOS), str(out)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        errors = [peer.communicate(timeout=120)[1] for peer in peers]
    finally:
        for peer in peers:
            peer.kill()
    assert [peer.returncode for peer in peers] == [0, 0], "\n".join(errors)
    return [torch.load(out / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize(
    "scenario",
    [
        *("random", "gradient", "momentum", "shared_by_weights", "saliency", "channel", "condensed"),
        *("accumulated", "rounds", "remembering"),
    ],
)
def test_itop_bug_1_masks_are_bit_equal_at_init_and_after_every_update(results, scenario):
    """ITOP and Chase seed by rank and never broadcast: every rank trains a topology of its own."""
    zero, one = (result[scenario] for result in results)
    assert len(zero["masks"]) == 6  # the start and five updates
    for a, b in zip(zero["masks"], one["masks"], strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)
    assert zero["budgets"] == one["budgets"]
    assert all(torch.equal(a, b) for a, b in zip(zero["weights"], one["weights"], strict=True))
    assert zero["grown"] == one["grown"] > 0


def test_two_ranks_of_condensed_layers_equal_one_process_on_the_joined_batch(results):
    """Gradients of stored weights go through DDP, dense ones are averaged where an update reads them."""
    sys.path.insert(0, str(HERE.parent))
    from fakes import ranks

    alone = ranks.joined(None)
    for result in results:
        found = result["condensed_alone"]
        for a, b in zip(found["masks"], alone["masks"], strict=True):
            assert all(torch.equal(a[name], b[name]) for name in a)
        assert found["grown"] == alone["grown"]
        assert sum(weight.numel() for weight in found["weights"]) < sum(w.numel() for w in alone["weights"])


def test_values_and_a_superset_on_two_ranks_equal_one_process_on_the_joined_batch(results):
    """Initial and grown weights, scaled and restarted rates, memories and what trains beside the active weights."""
    sys.path.insert(0, str(HERE.parent))
    from fakes import ranks

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*supar", category=UserWarning)
        joined = ranks.valued(None)
    for name, alone in joined.items():
        zero, one = (result["valued"][name] for result in results)
        assert all(torch.equal(a, b) for a, b in zip(zero["weights"], one["weights"], strict=True)), name
        for found in (zero, one):
            for a, b in zip(found["masks"], alone["masks"], strict=True):
                assert all(torch.equal(a[layer], b[layer]) for layer in a), name
            for a, b in zip(found["weights"], alone["weights"], strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6, msg=name)
        assert len(alone["masks"]) >= 6, name
        assert alone["grown"] > 0, name


def test_correlated_links_and_percolation_on_two_ranks_equal_one_process_on_the_joined_batches(results):
    """Sums of products over all ranks' inputs; what leads nowhere goes with what all of them pruned."""
    sys.path.insert(0, str(HERE.parent))
    from fakes import ranks

    for prune, alone in ranks.topological(None).items():
        assert len(alone["masks"]) == 6
        assert alone["grown"] > 0
        for result in results:
            for a, b in zip(result["topological"][prune]["masks"], alone["masks"], strict=True):
                assert all(torch.equal(a[name], b[name]) for name in a), prune


def test_srigl_bug_11_two_ranks_equal_one_process_on_the_joined_batch(results):
    """Mean before |·|: averaging |g| instead would grow where ranks disagree."""
    sys.path.insert(0, str(HERE.parent))
    from fakes import ranks

    alone = ranks.joined(None)
    for result in results:
        for a, b in zip(result["joined"]["masks"], alone["masks"], strict=True):
            assert all(torch.equal(a[name], b[name]) for name in a)
        for a, b in zip(result["joined"]["weights"], alone["weights"], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert alone["grown"] > 0


def test_growth_averages_gradients_of_ranks_that_ddp_does_not_wrap(results):
    """Planted: ±9 where the ranks disagree, 1 where they agree. The mean of |g| would take the 9s."""
    for result in results:
        grown = result["without_ddp"]["masks"][-1]["weight"]
        assert torch.equal(grown.nonzero(), result["without_ddp"]["agreed"])


def test_accumulators_fold_mean_gradients_and_the_inputs_of_all_ranks(results):
    for result in results:
        assert torch.equal(result["squares"]["total"], torch.ones(2, 3))
        assert torch.equal(result["norms"]["total"], torch.full((1, 1), 5.0))


def refused(results, scenario, kind):
    """What was said on each rank."""
    assert [result[scenario]["type"] for result in results] == [kind, kind], results[0][scenario]
    return [result[scenario]["error"] for result in results]


def test_masks_that_would_differ_are_named_with_rank_layers_and_step(results):
    for said in refused(results, "unequal_weights", "StrategyError"):
        assert "different masks for 0, 2, 4 at step 2 (other than rank 0: rank 1 in 0, 2, 4)" in said


def test_a_score_that_differs_by_rank_is_named_with_rank_layer_and_step(results):
    for said in refused(results, "score_differs", "StrategyError"):
        assert "different masks for 2 at step 2 (other than rank 0: rank 1 in 2)" in said


UNEQUAL = {
    "unequal_seeds": "seed: 1 on rank 1, 0 on rank 0",
    "unequal_periods": "method.schedule.spec.delta_t: 3 on rank 1, 2 on rank 0",
    "unequal_growth": 'method.grow.spec.name: "gradient" on rank 1, "random" on rank 0',
    "unequal_objects": "method.prune.score.scale: 8.0 on rank 1, 7.0 on rank 0",
    "unequal_densities": "target_density: 0.3",
    "unequal_lengths": "total_steps: 12 on rank 1, 11 on rank 0",
    "unequal_epochs": "steps_per_epoch: 6 on rank 1, 5 on rank 0",
    "unequal_shapes": "shapes.0: [",
    "unequal_layers": "shapes.2: nothing on rank 1",
}  # fmt: skip


@pytest.mark.parametrize("scenario", UNEQUAL)
def test_what_ranks_must_share_is_compared_once(scenario, results):
    for said in refused(results, scenario, "BadInput"):
        assert said.startswith(UNEQUAL[scenario])
        assert said.endswith("ranks that train together have to share it")


def test_equal_objects_are_equal_in_every_process(results):
    assert [result["same_objects"]["error"] for result in results] == ["nothing was refused"] * 2


def test_what_one_rank_raises_all_raise(results):
    """None waits for another: each scenario is followed by others in the same two processes."""
    [first, second] = (result["made_on_one"] for result in results)
    assert (first["type"], second["type"]) == ("StrategyError", "BadInput")
    for said in (first["error"], second["error"]):
        assert "a Sparsifier being made: rank 1: BadInput: density: expected" in said
    for said in refused(results, "score_raises", "StrategyError"):
        assert said.startswith("the topology update at step 2: rank 1: StrategyError: ")
        assert "only here" in said
    for said in refused(results, "score_is_nan", "StrategyError"):
        assert said.startswith("the topology update at step 2: rank 1: StrategyError: Odd(")
        assert "layer '2'" in said
    for said in refused(results, "init_raises", "StrategyError"):
        assert said.startswith("the initial masks: rank 1: StrategyError: ")
    [first, second] = (result["values_raise"] for result in results)
    assert (first["type"], second["type"]) == ("StrategyError", "RuntimeError")
    assert first["error"] == "what values say at step 0 (memory): rank 1: RuntimeError: only here"
    [first, second] = (result["loss_raises"] for result in results)
    assert (first["type"], second["type"]) == ("StrategyError", "ValueError")
    assert first["error"] == "a look at the network before training: rank 1: ValueError: only here"
    for said in refused(results, "gradient_on_one", "StrategyError"):
        assert "rank 1" in said
        assert "at step" in said
