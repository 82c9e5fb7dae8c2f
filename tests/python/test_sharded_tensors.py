"""Operators on DTensor beside those on the whole tensors."""

from __future__ import annotations

import pytest
import torch
from ranks import Ranks
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode

import softmax_ext
import softmax_ext.distributed.tensor

CLOSE = {"rtol": 1e-12, "atol": 1e-12}


@pytest.fixture(scope="module")
def ranks():
    with Ranks(4) as ranks:
        yield ranks


def mesh_of(group, shape: tuple[int, ...] | None = None) -> DeviceMesh:
    if shape is None:
        return DeviceMesh.from_group(group, "cpu")
    return init_device_mesh("cpu", shape, mesh_dim_names=("rows", "classes")[: len(shape)])


def communication(mode: CommDebugMode) -> dict[str, int]:
    return {str(op).split(".")[-1]: count for op, count in mode.get_comm_counts().items() if count}


FUNCTIONS = {
    "softmax": lambda x: softmax_ext.softmax(x, 1),
    "log_softmax": lambda x: softmax_ext.log_softmax(x, 1, temperature=0.5),
    "logsumexp": lambda x: softmax_ext.logsumexp(x, 1),
    "entropy": lambda x: softmax_ext.entropy(x, 1),
    "masked_softmax": lambda x: softmax_ext.masked_softmax(x, x.detach() > -0.5, 1, empty="zero"),
    "causal_softmax": softmax_ext.causal_softmax,
}


def check_function(group, name: str, split_dim: int, communicates: bool) -> None:
    mesh = mesh_of(group)
    whole = torch.randn(7, 11, 5, dtype=torch.float64)
    of_one = whole.clone().requires_grad_()
    expected = FUNCTIONS[name](of_one)
    sharded = distribute_tensor(whole.clone(), mesh, [Shard(split_dim)]).requires_grad_()
    with CommDebugMode() as mode:
        result = FUNCTIONS[name](sharded)
        (result.to_local() ** 2).sum().backward()
    assert bool(communication(mode)) == communicates, communication(mode)
    (expected**2).sum().backward()
    torch.testing.assert_close(result.full_tensor(), expected, **CLOSE)
    if not communicates:
        torch.testing.assert_close(sharded.grad.full_tensor(), of_one.grad, **CLOSE)


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "causal_softmax"])
@pytest.mark.parametrize("split_dim", [0, 2])
def test_split_rows_stay_where_they_are(ranks, name, split_dim):
    ranks.run(check_function, 3, name, split_dim, False)


def test_a_causal_mask_of_split_matrices(ranks):
    ranks.run(check_function, 3, "causal_softmax", 0, False)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_split_classes(ranks, name):
    ranks.run(check_function, 3, name, 1, True)


PLACEMENTS = {
    "rows": (None, [Shard(0)]),
    "classes": (None, [Shard(1)]),
    "whole": (None, [Replicate()]),
    "rows and classes": ((2, 2), [Shard(0), Shard(1)]),
    "classes, two groups alike": ((2, 2), [Replicate(), Shard(1)]),
}
OPTIONS = {
    "plain": {},
    "none": {"reduction": "none"},
    "sum": {"reduction": "sum", "label_smoothing": 0.1},
    "everything": {"weight": True, "label_smoothing": 0.1, "z_loss": 0.1, "softcap": 4.0, "temperature": 0.7},
    "probabilities": {"probabilities": True, "label_smoothing": 0.1},
}


def check_loss(group, shape, placements, options: dict, gradient: str) -> None:
    mesh = mesh_of(group, shape)
    options = dict(options)
    x = torch.randn(8, 13, dtype=torch.float64) * 3
    target = torch.randint(0, 13, (8,))
    target[2] = -100
    if options.pop("probabilities", False):
        target = torch.randn(8, 13, dtype=torch.float64).softmax(1)
    weight = torch.rand(13, dtype=torch.float64) if options.pop("weight", False) else None
    of_one = x.clone().requires_grad_()
    expected = softmax_ext.cross_entropy(of_one, target, weight, **options)
    upstream = torch.rand_like(expected)
    expected.backward(upstream)
    sharded = distribute_tensor(x.clone(), mesh, placements).requires_grad_()
    whole = [Replicate()] * mesh.ndim
    target, upstream, weight = (
        None if t is None else distribute_tensor(t, mesh, whole) for t in (target, upstream, weight)
    )
    loss = softmax_ext.cross_entropy(sharded, target, weight, gradient=gradient, **options)
    torch.testing.assert_close(loss.full_tensor(), expected, **CLOSE)
    with CommDebugMode() as mode:
        loss.backward(upstream)
    assert communication(mode) == {}, communication(mode)
    assert sharded.grad.placements == tuple(placements)
    torch.testing.assert_close(sharded.grad.full_tensor(), of_one.grad, **CLOSE)


@pytest.mark.parametrize("gradient", ["recompute", "forward"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("placements", PLACEMENTS.values(), ids=PLACEMENTS)
def test_losses(ranks, placements, options, gradient):
    shape, placed = placements
    ranks.run(check_loss, 4 if shape else 3, shape, placed, options, gradient)


def check_second_derivative(group, placements) -> None:
    mesh = mesh_of(group)
    x, target = torch.randn(6, 13, dtype=torch.float64), torch.randint(0, 13, (6,))
    of_one = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(softmax_ext.cross_entropy(of_one, target), of_one, create_graph=True)
    (expected,) = torch.autograd.grad((first**3).sum(), of_one)
    sharded = distribute_tensor(x.clone(), mesh, placements).requires_grad_()
    loss = softmax_ext.cross_entropy(sharded, distribute_tensor(target, mesh, [Replicate()]))
    (first,) = torch.autograd.grad(loss, sharded, create_graph=True)
    (second,) = torch.autograd.grad((first**3).sum(), sharded)
    torch.testing.assert_close(second.full_tensor(), expected, **CLOSE)


@pytest.mark.parametrize("placements", [[Shard(0)], [Shard(1)], [Replicate()]], ids=str)
def test_second_derivatives(ranks, placements):
    ranks.run(check_second_derivative, 3, placements)


def check_one_gather(group) -> None:
    mesh = mesh_of(group)
    x = distribute_tensor(torch.randn(8, 13), mesh, [Shard(1)])
    target = distribute_tensor(torch.randint(0, 13, (8,)), mesh, [Replicate()])
    with CommDebugMode() as mode:
        softmax_ext.cross_entropy(x, target, label_smoothing=0.1)
    assert communication(mode) == {"all_gather_into_tensor": 1}, communication(mode)


def test_split_classes_take_one_gather(ranks):
    ranks.run(check_one_gather, 3)


def check_plan(group) -> None:
    """A transformer's head under torch's plans: hidden states split over the sequence, logits over the vocabulary."""
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        PrepareModuleInput,
        SequenceParallel,
        parallelize_module,
    )

    mesh = mesh_of(group)
    model = torch.nn.ModuleDict(
        {
            "norm": torch.nn.LayerNorm(6),
            "head": torch.nn.Linear(6, 13, bias=False),
            "loss": softmax_ext.nn.CrossEntropyLoss(label_smoothing=0.1),
        }
    ).double()
    reference = torch.nn.ModuleDict(
        {"norm": torch.nn.LayerNorm(6), "head": torch.nn.Linear(6, 13, bias=False)}
    ).double()
    reference.load_state_dict(model.state_dict())
    x, target = torch.randn(2, 9, 6, dtype=torch.float64), torch.randint(0, 13, (18,))
    expected = softmax_ext.cross_entropy(reference.head(reference.norm(x)).flatten(0, 1), target, label_smoothing=0.1)
    expected.backward()
    parallelize_module(
        model,
        mesh,
        {
            "norm": SequenceParallel(),
            "head": ColwiseParallel(input_layouts=Shard(1), output_layouts=Shard(-1), use_local_output=False),
            "loss": PrepareModuleInput(
                input_layouts=(Shard(1), Replicate()), desired_input_layouts=(Shard(1), Replicate())
            ),
        },
    )
    logits = model.head(model.norm(x.chunk(group.size(), 1)[group.rank()]))
    loss = model.loss(logits.flatten(0, 1), target)
    torch.testing.assert_close(loss.full_tensor(), expected, **CLOSE)
    loss.backward()
    torch.testing.assert_close(model.head.weight.grad.full_tensor(), reference.head.weight.grad, **CLOSE)
    torch.testing.assert_close(model.norm.weight.grad.full_tensor(), reference.norm.weight.grad, **CLOSE)


def test_sequence_and_tensor_parallel_plans(ranks):
    ranks.run(check_plan, 3)


def test_every_primitive_has_a_rule():
    from softmax_ext.distributed._sharded_losses import HANDLERS
    from softmax_ext.distributed._sharding import RULES

    names = {
        schema.name
        for schema in torch._C._jit_get_all_schemas()
        if schema.name.startswith("softmax_ext::_") and not schema.overload_name
    }
    # What writes to an argument, counts for one process alone, or is of one rank's shard.
    without = {
        f"softmax_ext::{name}"
        for name in (
            *("_softmax_into", "_softmax_backward_into", "_log_softmax_into", "_log_softmax_backward_into"),
            *("_cross_entropy_in_place", "_scale_gradient", "_temperature_statistics", "_cpu_level"),
            *("_cuda_architectures", "_cross_entropy_shard", "_cross_entropy_shard_backward"),
        )
    }
    assert names - without == {operator.name().split(".")[0] for operator in {*RULES, *HANDLERS}} - without
