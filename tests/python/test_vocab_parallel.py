"""The loss of split classes beside that of one process: values, derivatives, communication."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from ranks import Ranks
from torch import Tensor
from torch.distributed.tensor.debug import CommDebugMode

import softmax_ext
from softmax_ext.distributed import vocab_parallel_cross_entropy, vocab_parallel_logsumexp
from softmax_ext.distributed._collectives import SumOfShards

CLASSES = 37
#: The ends of the ranks' classes: uneven, and one rank without any.
ENDS = {2: (30, 37), 3: (5, 20, 37), 4: (9, 9, 36, 37)}
#: Two float64 evaluations of sums of some 40 terms near 1.
CLOSE = {"rtol": 1e-12, "atol": 1e-12}

OPTIONS = {
    "plain": {},
    "smoothing": {"label_smoothing": 0.1},
    "all smoothing": {"label_smoothing": 1.0},
    "weights": {"weight": True},
    "weights and smoothing": {"weight": True, "label_smoothing": 0.2},
    "sum": {"reduction": "sum"},
    "none": {"reduction": "none", "label_smoothing": 0.1},
    "z-loss": {"z_loss": 0.1},
    "softcap": {"softcap": 3.0, "label_smoothing": 0.1},
    "temperature": {"temperature": 0.7, "weight": True},
    "temperature of rows": {"temperature": "rows", "z_loss": 0.01},
    "one temperature": {"temperature": "one", "softcap": 5.0},
    "ignored inside": {"ignore_index": 7, "label_smoothing": 0.1},
    "probabilities": {"probabilities": True},
    "probabilities with all": {
        "probabilities": True, "weight": True, "label_smoothing": 0.1, "z_loss": 0.1, "softcap": 4.0, "temperature": 1.3
    },
    "everything": {
        "weight": True, "label_smoothing": 0.1, "z_loss": 0.1, "softcap": 4.0, "temperature": "rows", "reduction": "sum"
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def ranks():
    with Ranks(4) as ranks:
        yield ranks


class Inputs:
    """Of one process, and what a rank has of them."""

    def __init__(self, group, options: dict, shape: tuple[int, ...] = (6, CLASSES), dtype: torch.dtype = torch.float64):
        self.world, self.rank = group.size(), group.rank()
        options = dict(options)
        self.first, self.last = ([0, *ENDS[self.world]])[self.rank : self.rank + 2]
        self.rows = (*shape[:1], *shape[2:])
        self.logits = (torch.randn(shape, dtype=torch.float64) * 3).to(dtype)
        if options.pop("probabilities", False):
            self.target = torch.randn(shape, dtype=torch.float64).softmax(1)
        else:
            self.target = torch.randint(0, CLASSES, self.rows)
            self.target.view(-1)[1] = options.get("ignore_index", -100)
        self.weight = torch.rand(CLASSES, dtype=torch.float64) + 0.5 if options.pop("weight", False) else None
        self.temperature = options.pop("temperature", None)
        if isinstance(self.temperature, str):
            sizes = (shape[0], *[1] * (len(shape) - 1)) if self.temperature == "rows" else ()
            self.temperature = torch.rand(sizes, dtype=torch.float64) + 0.5
        self.options = options
        # What is differentiated, and which of its dims is split.
        self.split = {"logits": 1, "weight": 0, "target": 1, "temperature": None}
        if not self.target.is_floating_point():
            del self.split["target"]
        if self.weight is None:
            del self.split["weight"]
        if not isinstance(self.temperature, Tensor):
            del self.split["temperature"]

    def of_one(self) -> dict[str, Tensor]:
        return {name: getattr(self, name).clone().requires_grad_() for name in self.split}

    def shard(self, name: str, whole: Tensor) -> Tensor:
        dim = self.split[name]
        return whole if dim is None else whole.narrow(dim, self.first, self.last - self.first)

    def of_rank(self) -> dict[str, Tensor]:
        return {name: self.shard(name, getattr(self, name)).clone().requires_grad_() for name in self.split}

    def loss_of_one(self, values: dict[str, Tensor]) -> Tensor:
        arguments = {"target": self.target, "weight": self.weight, "temperature": self.temperature} | values
        return softmax_ext.cross_entropy(arguments.pop("logits"), **arguments, **self.options)

    def loss_of_rank(self, values: dict[str, Tensor], group) -> Tensor:
        arguments = {"target": self.target, "weight": self.weight, "temperature": self.temperature} | values
        return vocab_parallel_cross_entropy(
            arguments.pop("logits"), **arguments, **self.options, group=group, vocab_start=self.first
        )


def check_derivatives(group, options: dict, shape: tuple[int, ...]) -> None:
    inputs = Inputs(group, options, shape)
    of_one, of_rank = inputs.of_one(), inputs.of_rank()
    expected, loss = inputs.loss_of_one(of_one), inputs.loss_of_rank(of_rank, group)
    torch.testing.assert_close(loss, expected, **CLOSE)
    # A different upstream gradient for each result.
    upstream = torch.rand_like(expected)
    expected = torch.autograd.grad(expected, [*of_one.values()], upstream, create_graph=True)
    first = torch.autograd.grad(loss, [*of_rank.values()], upstream, create_graph=True)
    for name, gradient, of_whole in zip(inputs.split, first, expected, strict=True):
        torch.testing.assert_close(gradient, inputs.shard(name, of_whole), **CLOSE, msg=lambda m, n=name: f"{n}: {m}")
    # The kernels' gradients, where no graph is made.
    for name, gradient, of_whole in zip(
        inputs.split,
        torch.autograd.grad(inputs.loss_of_rank(of_rank, group), [*of_rank.values()], upstream),
        expected,
        strict=True,
    ):
        torch.testing.assert_close(gradient, inputs.shard(name, of_whole), **CLOSE, msg=lambda m, n=name: f"{n}: {m}")
    # A scalar that depends on every gradient; of what is split, the sum over the ranks.
    scalar = sum((gradient**3).sum() for gradient in expected)
    split = sum((g**3).sum() for g, name in zip(first, inputs.split, strict=True) if inputs.split[name] is not None)
    replicated = [(g**3).sum() for g, name in zip(first, inputs.split, strict=True) if inputs.split[name] is None]
    of_ranks = SumOfShards.apply(split, group.group_name) + sum(replicated)
    torch.testing.assert_close(of_ranks, scalar, **CLOSE)
    second = torch.autograd.grad(of_ranks, [*of_rank.values()])
    for name, gradient, of_whole in zip(
        inputs.split, second, torch.autograd.grad(scalar, [*of_one.values()]), strict=True
    ):
        torch.testing.assert_close(
            gradient, inputs.shard(name, of_whole), rtol=1e-10, atol=1e-12, msg=lambda m, n=name: f"second by {n}: {m}"
        )


@pytest.mark.parametrize("world", ENDS)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_derivatives_are_those_of_one_process(ranks, world, options):
    ranks.run(check_derivatives, world, options, (6, CLASSES))


@pytest.mark.parametrize("options", [{}, {"weight": True, "label_smoothing": 0.1, "temperature": "rows"}])
def test_trailing_dims(ranks, options):
    ranks.run(check_derivatives, 3, options, (2, CLASSES, 3))


def check_one_sample(group) -> None:
    inputs = Inputs(group, {})
    x, t = inputs.logits[0], inputs.target[0]
    loss = vocab_parallel_cross_entropy(x[inputs.first : inputs.last], t, group=group, vocab_start=inputs.first)
    torch.testing.assert_close(loss, softmax_ext.cross_entropy(x, t), **CLOSE)


def test_one_sample(ranks):
    ranks.run(check_one_sample, 2)


def check_dtype(group, dtype: torch.dtype, tolerance: float) -> None:
    inputs = Inputs(group, {"label_smoothing": 0.1}, dtype=dtype)
    of_one, of_rank = inputs.of_one(), inputs.of_rank()
    expected, loss = inputs.loss_of_one(of_one), inputs.loss_of_rank(of_rank, group)
    assert loss.dtype == expected.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=4e-7, atol=4e-7)
    expected.backward(), loss.backward()
    assert of_rank["logits"].grad.dtype == dtype
    torch.testing.assert_close(
        of_rank["logits"].grad, inputs.shard("logits", of_one["logits"].grad), rtol=tolerance, atol=tolerance * 1e-3
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes(ranks, dtype):
    ranks.run(check_dtype, 3, dtype, 4 * torch.finfo(dtype).eps)


def check_nearly_certain(group) -> None:
    """A loss near 0 keeps its digits, and so does p − 1; far from 0 logits cost none."""
    inputs = Inputs(group, {})
    x = torch.full((3, CLASSES), 1e4, dtype=torch.float32)
    x[0, 3] += 20
    x[1, 36] += 30
    x[2, 10] += 15
    t = torch.tensor([3, 36, 10])
    exact = x.double().requires_grad_()
    expected = softmax_ext.cross_entropy(exact, t, reduction="none")
    expected.sum().backward()
    shard = x[:, inputs.first : inputs.last].clone().requires_grad_()
    loss = vocab_parallel_cross_entropy(shard, t, group=group, vocab_start=inputs.first, reduction="none")
    loss.sum().backward()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(shard.grad.double(), exact.grad[:, inputs.first : inputs.last], rtol=1e-6, atol=0)


def test_nearly_certain_rows_keep_their_digits(ranks):
    ranks.run(check_nearly_certain, 3)


def check_special_rows(group, options: dict) -> None:
    inputs = Inputs(group, {}, (8, CLASSES))
    x, t = inputs.logits, inputs.target
    first, last = ([0, *ENDS[inputs.world]])[:2]
    x[0, first:last] = -torch.inf  # a whole shard
    x[0, t[0]] = 1.0
    x[1] = torch.nan  # ignored
    x[2] = -torch.inf
    x[3, 30] = torch.inf
    x[4, 4] = torch.nan
    x[5, first:last] = -torch.inf
    t[5] = first  # the logit of the target is −inf
    x[6, last:] = -torch.inf
    t[6] = first
    of_one = x.clone().requires_grad_()
    expected = softmax_ext.cross_entropy(of_one, t, reduction="none", **options)
    expected.sum().backward()
    shard = x[:, inputs.first : inputs.last].clone().requires_grad_()
    loss = vocab_parallel_cross_entropy(shard, t, group=group, vocab_start=inputs.first, reduction="none", **options)
    loss.sum().backward()
    same = {"equal_nan": True, **CLOSE}
    torch.testing.assert_close(loss, expected, **same)
    torch.testing.assert_close(shard.grad, of_one.grad[:, inputs.first : inputs.last], **same)


@pytest.mark.parametrize("world", ENDS)
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"temperature": 0.0}, {"temperature": 2.0}], ids=str)
def test_special_rows(ranks, world, options):
    ranks.run(check_special_rows, world, options)


def check_empty(group) -> None:
    inputs = Inputs(group, {})
    x = inputs.logits[:, inputs.first : inputs.last]
    call = {"group": group, "vocab_start": inputs.first}
    ignored = torch.full((6,), -100)
    for rows, target in ((x, ignored), (x[:0], ignored[:0])):
        shard = rows.clone().requires_grad_()
        loss = vocab_parallel_cross_entropy(shard, target, **call)
        assert loss.isnan()
        loss.backward()
        assert not shard.grad.any()
        shard.grad = None
        zero = vocab_parallel_cross_entropy(shard, target, **call, empty="zero")
        assert zero == 0
        zero.backward()
        assert not shard.grad.any()


def test_no_rows_and_no_valid_rows(ranks):
    ranks.run(check_empty, 3)


def check_logsumexp(group, temperature) -> None:
    inputs = Inputs(group, {}, (5, CLASSES, 2))
    x = inputs.logits
    x[0, :, 0] = -torch.inf
    x[1, 36, 1] = torch.inf
    if temperature == "tensor":
        temperature = torch.tensor(0.5, dtype=torch.float64)
    of_one = x.clone().requires_grad_()
    expected = softmax_ext.logsumexp(of_one, 1, temperature=temperature)
    shard = x[:, inputs.first : inputs.last].clone().requires_grad_()
    result = vocab_parallel_logsumexp(shard, 1, group=group, temperature=temperature)
    torch.testing.assert_close(result, expected, **CLOSE)
    kept = vocab_parallel_logsumexp(shard, -2, True, group=group, temperature=temperature)
    torch.testing.assert_close(kept, expected.unsqueeze(1), **CLOSE)
    upstream = torch.rand_like(expected)
    (gradient,) = torch.autograd.grad(result, shard, upstream)
    (of_whole,) = torch.autograd.grad(expected, of_one, upstream)
    torch.testing.assert_close(gradient, of_whole[:, inputs.first : inputs.last], equal_nan=True, **CLOSE)


@pytest.mark.parametrize("temperature", [None, 0.5, "tensor"])
@pytest.mark.parametrize("world", ENDS)
def test_logsumexp(ranks, world, temperature):
    ranks.run(check_logsumexp, world, temperature)


def counted(function) -> tuple[object, dict[str, int]]:
    with CommDebugMode() as mode:
        result = function()
    return result, {str(op).split(".")[-1]: count for op, count in mode.get_comm_counts().items() if count}


def check_communication(group, options: dict) -> dict:
    inputs = Inputs(group, options)
    of_rank = inputs.of_rank()
    inputs.loss_of_rank(of_rank, group)  # the ranks compare their calls at the first one
    loss, forward = counted(lambda: inputs.loss_of_rank(of_rank, group))
    assert forward == {"all_gather_into_tensor": 1}, forward
    names = [name for name in of_rank if name != "temperature"]
    upstream = torch.rand_like(loss)
    _, backward = counted(
        lambda: torch.autograd.grad(loss, [of_rank[name] for name in names], upstream, retain_graph=True)
    )
    assert backward == {}, backward
    if "temperature" in of_rank:
        _, of_temperature = counted(
            lambda: torch.autograd.grad(loss, of_rank["temperature"], upstream, retain_graph=True)
        )
        assert of_temperature == {"all_reduce": 1}, of_temperature
    first = torch.autograd.grad(loss, of_rank["logits"], upstream, create_graph=True)[0]
    _, second = counted(lambda: torch.autograd.grad((first**2).sum(), of_rank["logits"]))
    assert second == {"all_reduce": 1}, second


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_one_collective_forward_and_none_backward(ranks, options):
    ranks.run(check_communication, 3, options)


def check_same_bits(group) -> Tensor:
    inputs = Inputs(group, {"label_smoothing": 0.1, "reduction": "none"}, dtype=torch.float32)
    of_rank = inputs.of_rank()
    return torch.stack([inputs.loss_of_rank(of_rank, group).detach() for _ in range(3)]).tolist()


def test_every_rank_and_every_run_has_the_same_bits(ranks):
    results = ranks.run(check_same_bits, 4)
    assert len({str(run) for result in results for run in result}) == 1


def check_order_of_ranks(group) -> None:
    """Classes lie in any order of the ranks; without vocab_start in that of the ranks."""
    inputs = Inputs(group, {})
    ends = [0, *ENDS[inputs.world]]
    mirrored = inputs.world - 1 - inputs.rank
    first, last = ends[mirrored : mirrored + 2]
    expected = softmax_ext.cross_entropy(inputs.logits, inputs.target, label_smoothing=0.1)
    options = {"group": group, "label_smoothing": 0.1}
    loss = vocab_parallel_cross_entropy(
        inputs.logits[:, first:last], inputs.target, vocab_start=first, vocab_size=CLASSES, **options
    )
    torch.testing.assert_close(loss, expected, **CLOSE)
    loss = vocab_parallel_cross_entropy(inputs.logits[:, inputs.first : inputs.last], inputs.target, **options)
    torch.testing.assert_close(loss, expected, **CLOSE)


def test_any_order_of_ranks(ranks):
    ranks.run(check_order_of_ranks, 4)


def check_subgroup(group) -> None:
    """Two groups of two ranks beside each other, as with data parallelism."""
    pairs = [dist.new_group(pair) for pair in ([0, 1], [2, 3])]
    mine = pairs[group.rank() // 2]
    torch.manual_seed(group.rank() // 2)
    inputs = Inputs(mine, {"label_smoothing": 0.1})
    loss = inputs.loss_of_rank(inputs.of_rank(), mine)
    torch.testing.assert_close(loss, inputs.loss_of_one(inputs.of_one()), **CLOSE)
    mesh = dist.device_mesh.init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "vocabulary"))
    loss = inputs.loss_of_rank(inputs.of_rank(), mesh["vocabulary"])
    torch.testing.assert_close(loss, inputs.loss_of_one(inputs.of_one()), **CLOSE)


def test_groups_beside_each_other_and_meshes(ranks):
    ranks.run(check_subgroup, 4)


def check_compile(group) -> None:
    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd

    inputs = Inputs(group, {})
    graphs = []

    def keep(graph, _):
        graphs.append(sorted(str(node.target) for node in graph.graph.nodes if "all_" in str(node.target)))
        return make_boxed_func(graph.forward)

    def loss(logits, target):
        return vocab_parallel_cross_entropy(
            logits,
            target,
            group=group,
            vocab_start=inputs.first,
            vocab_size=CLASSES,
            label_smoothing=0.1,
            z_loss=0.01,
        )

    torch._dynamo.reset()
    compiled = torch.compile(loss, backend=aot_autograd(fw_compiler=keep, bw_compiler=keep), fullgraph=True)
    of_one, of_rank = inputs.of_one(), inputs.of_rank()
    expected = softmax_ext.cross_entropy(of_one["logits"], inputs.target, label_smoothing=0.1, z_loss=0.01)
    result = compiled(of_rank["logits"], inputs.target)
    torch.testing.assert_close(result, expected, **CLOSE)
    expected.backward(), result.backward()
    torch.testing.assert_close(of_rank["logits"].grad, inputs.shard("logits", of_one["logits"].grad), **CLOSE)
    assert graphs == [["_c10d_functional.all_gather_into_tensor.default"], []], graphs


def test_compiled_code_has_the_collective(ranks):
    ranks.run(check_compile, 2)


def check_compile_needs_sizes(group) -> None:
    inputs = Inputs(group, {})
    compiled = torch.compile(vocab_parallel_cross_entropy, backend="eager", fullgraph=True)
    with pytest.raises(Exception, match="vocab_start and vocab_size where it is compiled"):
        compiled(inputs.of_rank()["logits"], inputs.target, group=group)


def test_compiled_code_is_told_where_the_shard_lies(ranks):
    ranks.run(check_compile_needs_sizes, 2)
