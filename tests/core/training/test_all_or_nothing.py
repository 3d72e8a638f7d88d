"""A Sparsifier that can't be made leaves the model and its optimizers as they were, bit for bit."""

import copy

import pytest
import timm.optim
import torch
from torch import nn

import dstbench
from dstbench.core.training import masking
from dstbench.core.training.hooks import StepHooks
from dstbench.core.training.masking import Masking
from dstbench.core.training.rules import Rules
from dstbench.errors import BadInput
from fakes.engine import chain_net, mlp, recipe, sgd


class Injected(Exception):
    pass


STAGES = {
    "initial masks": (Rules, "initial"),
    "following masks": (Masking, "adopt"),
    "zeros": (Masking, "zero"),
    "removals": (Rules, "check_removals"),
    "storage": (Masking, "arrange"),
    "hooks": (StepHooks, "__init__"),
    "checkpoints": (masking, "keep_checkpoints_logical"),
    "listening": (StepHooks, "listen"),
}


def picture(model, optimizer):
    """All that a construction may touch."""
    modules = {
        path: (
            id(m),
            {k: repr(v) if isinstance(v, dict | list | set) else id(v) for k, v in m.__dict__.items()},
        )
        for path, m in model.named_modules()
    }
    tensors = {
        name: (
            id(t),
            t.data_ptr(),
            t.shape,
            t.detach().clone(),
            t.grad,
            repr(t._post_accumulate_grad_hooks or {}),
        )
        for name, t in (*model.named_parameters(), *model.named_buffers())
    }
    state = copy.deepcopy(list(optimizer.state.values()))
    rest = {k: repr(v) for k, v in optimizer.__dict__.items() if k not in ("state", "param_groups")}
    groups = [[id(p) for p in group["params"]] for group in optimizer.param_groups]
    return modules, tensors, state, rest, groups


def assert_same(before, after):
    for left, right in zip(flat(before), flat(after), strict=True):
        assert torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right


def flat(value):
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    return [leaf for part in value for leaf in flat(part)] if isinstance(value, list | tuple) else [value]


def trained(model, shape):
    """A model whose optimizer has state."""
    optimizer = sgd(model)
    model(torch.randn(shape)).square().mean().backward()
    optimizer.step()
    return optimizer


@pytest.mark.parametrize("storage", ["masked", "condensed", "compact"])
@pytest.mark.parametrize("after", [False, True], ids=["before it", "behind it"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_failure_at_any_stage_changes_nothing(monkeypatch, stage, after, storage):
    torch.manual_seed(0)
    compact = storage == "compact"
    model, shape = (chain_net(), (4, 3, 8, 8)) if compact else (mlp(), (4, 12))
    method = {"name": "chase", "schedule": {"name": "cosine", "delta_t": 2}} if compact else recipe()
    optimizer = trained(model, shape)
    owner, name = STAGES[stage]
    real = getattr(owner, name)

    def failing(*args, **kwargs):
        if after:
            real(*args, **kwargs)
        raise Injected

    options = {"total_steps": 400, "storage": storage, "example_input": torch.zeros(shape)}
    before = picture(model, optimizer)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, failing)
        with pytest.raises(Injected):
            dstbench.Sparsifier(model, optimizer, method, 0.3, **options)
    assert_same(before, picture(model, optimizer))
    model(torch.randn(shape)).square().mean().backward()  # nothing listens
    optimizer.step()
    dstbench.Sparsifier(model, optimizer, method, 0.3, **options)


class SAM(torch.optim.Optimizer):
    """As it is usually written: it perturbs weights, and steps another optimizer."""

    def __init__(self, params, **options):
        super().__init__(params, options)
        self.base_optimizer = torch.optim.SGD(self.param_groups, **options)
        self.param_groups = self.base_optimizer.param_groups


class Both(torch.optim.Optimizer):
    """Several in one."""

    def __init__(self, model):
        super().__init__(model.parameters(), {})
        self.parts = [sgd(model[0]), sgd(model[2])]


@pytest.mark.parametrize(
    ("wrap", "named"),
    [
        (lambda m: SAM(m.parameters(), lr=0.1), r"SAM steps another optimizer, its base_optimizer \(SGD\)"),
        (
            lambda m: timm.optim.create_optimizer_v2(m, opt="lookahead_adamw", lr=1e-3),
            r"Lookahead steps another optimizer, its _base_optimizer \(AdamW\)",
        ),
        (Both, r"Both steps another optimizer, its parts \(SGD, SGD\)"),
        (
            lambda m: torch.optim.lr_scheduler.StepLR(sgd(m), 3),
            r"StepLR steps another .* its optimizer \(SGD\)",
        ),
    ],
    ids=["SAM", "Lookahead", "several", "scheduler"],
)
def test_what_steps_another_optimizer_is_refused_by_name(wrap, named):
    model = mlp()
    optimizer = wrap(model)
    before = copy.deepcopy(model.state_dict())
    for _ in range(2):
        with pytest.raises(BadInput, match=named):
            dstbench.Sparsifier(model, optimizer, recipe(), 0.3, total_steps=20)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_optimizer_inside_works():
    model = mlp()
    outer = timm.optim.create_optimizer_v2(model, opt="lookahead_adamw", lr=1e-3)
    sparsifier = dstbench.Sparsifier(model, outer._base_optimizer, recipe("constant", 2), 0.3, total_steps=40)
    for _ in range(15):
        outer.zero_grad()
        nn.functional.cross_entropy(model(torch.randn(8, 12)), torch.randint(4, (8,))).backward()
        outer.step()
        for name, mask in sparsifier.masks.items():
            assert not sparsifier.layers[name].weight.detach()[~mask].any()
    assert sparsifier.updates == 7
