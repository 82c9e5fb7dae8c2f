"""What has gone wrong in cross-entropy kernels elsewhere, for each option and each way to the gradient.

CONTRIBUTING.md has the table of all of them. Expected values are those of reference.cross_entropy, in float64.
"""

import math

import pytest
import reference
import tolerances
import torch
import torch.nn.functional as F
from backend import cpu_kernels_only
from torch._dynamo.testing import AotEagerAndRecordGraphs
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import softmax_ext

INF, NAN = math.inf, math.nan
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
HALVES = [torch.bfloat16, torch.float16]
# One for each mapping of float32 rows to threads: slab, warp, block, cluster.
LENGTHS = [7, 101, 1001, 20_001]

#: Each makes the options for rows of so many classes.
OPTIONS = {
    "none": lambda rows, classes: {},
    "weight": lambda rows, classes: {"weight": torch.linspace(0.5, 2, classes)},
    "smoothing": lambda rows, classes: {"label_smoothing": 0.1},
    "temperature": lambda rows, classes: {"temperature": 0.7},
    "temperature of rows": lambda rows, classes: {"temperature": torch.linspace(0.5, 2, rows).unsqueeze(1)},
    "softcap": lambda rows, classes: {"softcap": 30.0},
    "z_loss": lambda rows, classes: {"z_loss": 0.01},
    "all": lambda rows, classes: {
        name: value
        for option in ("weight", "smoothing", "temperature", "softcap", "z_loss")
        for name, value in OPTIONS[option](rows, classes).items()
    },
}
WAYS = ["recompute", "forward", "inplace"]

options = pytest.mark.parametrize("name", OPTIONS)
ways = pytest.mark.parametrize("way", WAYS)
# What float64 can be the measure of.
BELOW_FLOAT64 = DTYPES[1:]

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
below_float64 = pytest.mark.parametrize("dtype", BELOW_FLOAT64, ids=str)
halves = pytest.mark.parametrize("dtype", HALVES, ids=str)
lengths = pytest.mark.parametrize("length", LENGTHS)


def logits_and_target(rows, classes, dtype=torch.float32, scale=3.0):
    x = (scale * torch.randn(rows, classes, dtype=torch.float64)).to(dtype)
    return x, torch.randint(classes, (rows,))


def probabilities_of(target, classes, share=0.75):
    """Those of a target that is nearly sure of its class."""
    others = torch.rand(len(target), classes, dtype=torch.float64)
    others /= others.sum(1, keepdim=True)
    return ((1 - share) * others + share * F.one_hot(target, classes)).float()


def ours(x, target, upstream=None, **given):
    """The loss, and the gradient of logits that are the result of another operator."""
    leaf = x.detach().clone().requires_grad_()
    loss = softmax_ext.cross_entropy(leaf * 1, target, **given)
    return loss.detach(), *torch.autograd.grad(loss, leaf, torch.ones_like(loss) if upstream is None else upstream)


def exact(x, target, upstream=None, **given):
    given.pop("gradient", None)
    leaf = x.detach().double().requires_grad_()
    loss = reference.cross_entropy(leaf, target, **given)
    upstream = torch.ones_like(loss) if upstream is None else upstream.double()
    return loss.detach(), *torch.autograd.grad(loss, leaf, upstream)


def assert_loss_and_gradient(x, target, *, near_1=False, reduction="mean", **given):
    """Within bounds that follow from the arithmetic's unit u: 4e-7 · max(1, loss), or as much of what is added up for
    it; and p and q of the gradient ``p Q − q``, with Q = Σ q + 2 z lse, within (16 + 6 d) u, d being a logit's distance
    to the maximum. ``near_1``: the gradient of the true class is made as ``(Q − q) − Q (1 − p)``. In float64 twice as
    much, as what is expected has an error of the same size.
    """
    loss, gradient = ours(x, target, reduction=reduction, **given)
    expected, expected_gradient = exact(x, target, reduction=reduction, **given)
    given.pop("gradient", None)
    z, softcap = given.pop("z_loss", 0.0), given.get("softcap", 0.0)
    logits, q, ignored, denominator = reference.cross_entropy_terms(x, target, **given)
    lse, top = torch.logsumexp(logits, 1), logits.amax(1)
    temperature = torch.as_tensor(given.get("temperature", 1.0), dtype=torch.float64)
    share = 1 / denominator if reduction == "mean" else torch.ones(())
    unit = tolerances.unit(loss.dtype) * (2 if x.dtype == torch.float64 else 1)

    of_rows = reference.cross_entropy(x, target, reduction="none", z_loss=z, **given).nan_to_num(posinf=0)
    parts = of_rows.clamp(min=1) + z * (top.abs() + math.log(x.shape[1])).square()
    parts = (parts + (softcap / temperature).flatten()) * ~ignored
    parts = parts if reduction == "none" else parts.sum() * share
    tolerances.assert_within(loss, expected, 7 * unit * parts.clamp(min=1), "loss")

    probs = (logits - lse.unsqueeze(1)).exp()
    factor = (q.sum(1) + 2 * z * lse).unsqueeze(1)
    terms = probs * (q.sum(1) + 2 * z * lse.abs()).unsqueeze(1) + q
    distance = (top.unsqueeze(1) - logits + 4 * softcap / temperature).clamp(max=1e4)
    if near_1:
        is_target = F.one_hot(target, x.shape[1]) == 1
        others = probs.masked_fill(is_target, 0).sum(1, keepdim=True)
        of_target = factor.abs() * others + (factor - q).abs()
        of_target += factor.abs().maximum(q) / 8 * (factor != q)  # that difference, within 2 u of the larger
        terms = torch.where(is_target, of_target, terms)
        distance = torch.where(is_target, distance.amax(1, keepdim=True), distance)
    bound = unit * (16 + 6 * distance) * terms / temperature * share + 0.5 * tolerances.ulp(expected_gradient, x.dtype)
    tolerances.assert_within(
        gradient, expected_gradient, bound + torch.finfo(x.dtype).smallest_normal * unit, "gradient"
    )
    assert gradient[ignored].eq(0).all()


def assert_same_bits(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)


# What a row holds


@lengths
@options
@ways
def test_a_nan_or_plus_infinity_at_any_place_makes_its_row_nan_and_no_other(way, name, length):
    x, target = logits_and_target(3, length)
    given = OPTIONS[name](3, length) | {"reduction": "none", "gradient": way}
    for goal in (target, probabilities_of(target, length)):
        clean = ours(x, goal, **given)
        for held in (NAN, INF):
            if held == INF and "softcap" in given:
                continue  # a logit of the softcap
            for places in ([0], [length // 2], [length - 1], [1, length - 2], range(length)):
                hostile = x.clone()
                hostile[1, places] = held
                loss, gradient = ours(hostile, goal, **given)
                assert loss[1].isnan()
                assert gradient[1].isnan().all()
                assert_same_bits((loss[::2], gradient[::2]), (clean[0][::2], clean[1][::2]))


@options
@ways
def test_plus_infinity_under_a_softcap_is_the_softcap(way, name):
    x, target = logits_and_target(3, 101)
    x[0, 3], x[1, target[1]], x[2, :2] = INF, INF, torch.tensor([INF, -INF])
    assert_loss_and_gradient(x, target, gradient=way, **OPTIONS[name](3, 101) | {"softcap": 5.0})


@dtypes
@options
@ways
def test_a_target_of_minus_infinity_has_an_infinite_loss_and_the_gradient_of_its_probabilities(way, name, dtype):
    x, target = logits_and_target(5, 101, dtype)
    x[range(5), target] = -INF
    x[4] = torch.randn(101).to(dtype)
    given = OPTIONS[name](5, 101)
    if "softcap" not in given:  # which makes it finite
        assert softmax_ext.cross_entropy(x, target, **given) == INF
    assert_loss_and_gradient(x, target, reduction="sum", gradient=way, **given)


@dtypes
@options
@ways
def test_columns_that_are_masked_and_count_for_nothing_add_nothing(way, name, dtype):
    """As those of a vocabulary that is padded: 0 · inf of a weight, of smoothing or of a probability."""
    x, target = logits_and_target(5, 101, dtype)
    x[:, 90:] = -INF
    target.clamp_(max=89)
    given = OPTIONS[name](5, 101) | {"weight": torch.linspace(0.5, 2, 101)}
    given["weight"][90:] = 0
    probs = probabilities_of(target, 101)
    for goal in (target, probs):
        loss, gradient = ours(x, goal, gradient=way, **given)
        assert loss.isfinite()
        assert gradient[:, 90:].eq(0).all()
        assert_loss_and_gradient(x, goal, gradient=way, **given)
    probs[:, 90:] = 0
    if "label_smoothing" not in given:
        assert_loss_and_gradient(x, probs, gradient=way, **OPTIONS[name](5, 101) | {"weight": torch.ones(101)})


@ways
@pytest.mark.parametrize("weight", [None, torch.linspace(0.5, 2, 101)], ids=["no weight", "weight"])
def test_smoothing_over_a_masked_class_that_counts_is_infinite_with_a_finite_gradient(way, weight):
    x, target = logits_and_target(3, 101)
    x[1, (target[1] + 1) % 101] = -INF
    loss, gradient = ours(x, target, label_smoothing=0.1, weight=weight, reduction="none", gradient=way)
    assert loss.isinf().tolist() == [False, True, False]
    theirs = x.clone().requires_grad_()
    F.cross_entropy(theirs, target, label_smoothing=0.1, weight=weight, reduction="sum").backward()
    torch.testing.assert_close(gradient, theirs.grad, rtol=1e-5, atol=1e-7)


# Accuracy


@below_float64
@options
@ways
def test_the_true_class_gradient_keeps_its_digits_near_probability_1(way, name, dtype):
    for length in (7, 1001):
        given = OPTIONS[name](4, length)
        temperature = torch.as_tensor(given.get("temperature", 1.0), dtype=torch.float64)
        target = torch.tensor([0, length // 2, length // 3, length - 1])
        for prob in (0.9, 0.99, 0.999, 1 - 1e-6):
            x = 0.1 * torch.rand(4, length, dtype=torch.float64)
            x[range(4), target] += math.log(prob / (1 - prob) * (length - 1)) * temperature.flatten()
            assert_loss_and_gradient(x.to(dtype), target, near_1=True, reduction="sum", gradient=way, **given)


@below_float64
@options
@ways
def test_logits_near_1e4_have_the_losses_and_gradients_of_their_differences(way, name, dtype):
    given = OPTIONS[name](5, 301)
    for offset in (1e4, -1e4):
        x, target = logits_and_target(5, 301, torch.float64)
        x = (x + offset).to(dtype)
        for goal in (target, probabilities_of(target, 301)):
            assert_loss_and_gradient(x, goal, gradient=way, **given)


@pytest.mark.parametrize(
    ("classes", "dtype", "index"),
    [(65_539, torch.float32, torch.int64), (131_077, torch.bfloat16, torch.int32)],
    ids=["16 bits", "17 bits"],
)
@options
@ways
def test_classes_beyond_what_16_and_17_bits_count(way, name, classes, dtype, index):
    x, _ = logits_and_target(4, classes, dtype, scale=1.0)
    target = torch.tensor([classes - 1, 65_535, 65_536, classes - 2], dtype=index)
    x[range(4), target.long()] += 12  # which another class would not have
    assert_loss_and_gradient(x, target, gradient=way, ignore_index=classes - 2, **OPTIONS[name](4, classes))


@halves
@options
@ways
def test_losses_of_16_bit_logits_are_float32_and_nothing_of_a_row_is_kept_in_less(way, name, dtype):
    x, target = logits_and_target(5, 301, dtype)
    given = OPTIONS[name](5, 301)
    for goal in (target, probabilities_of(target, 301).to(dtype)):
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t) or t, lambda t: t):
            loss = softmax_ext.cross_entropy(x.requires_grad_() * 1, goal, gradient=way, **given)
        assert loss.dtype == torch.float32
        assert all(tensor.shape == x.shape for tensor in kept if tensor.dtype in HALVES)
        assert_loss_and_gradient(x, goal, reduction="none", gradient=way, **given)
        with_lse = softmax_ext.cross_entropy_with_logsumexp(x, goal, reduction="none", **given)
        assert [tensor.dtype for tensor in with_lse] == [torch.float32] * 2
        logits, *_ = reference.cross_entropy_terms(x, goal, **{n: v for n, v in given.items() if n != "z_loss"})
        expected = torch.logsumexp(logits, 1).detach()
        largest = expected.abs().maximum(logits.amax(1).abs()).maximum(torch.tensor(given.get("softcap", 1.0))).detach()
        tolerances.assert_within(with_lse[1].detach(), expected, 4 * tolerances.ulp(largest, torch.float32))


# Upstream gradients


@options
@ways
def test_upstream_gradients_of_every_layout_reach_the_rows_of_every_option(way, name):
    x, target = torch.randn(6, 5, 4, dtype=torch.float64), torch.randint(5, (6, 4))
    target[2] = -100
    dense = torch.randn(6, 4, dtype=torch.float64)
    dense[0], dense[:, 1] = 0, 0
    given = OPTIONS[name](6, 5) | {"reduction": "none", "gradient": way}
    if isinstance(given.get("temperature"), torch.Tensor):
        given["temperature"] = given["temperature"].unsqueeze(2)
    for upstream in (
        dense,
        torch.tensor(0.7, dtype=torch.float64).expand(6, 4),
        dense[1:2].expand(6, 4),
        dense[:, :1].expand(6, 4),
        torch.stack([dense, dense + 1], 2)[..., 0],
        dense.t().contiguous().t(),
    ):
        for goal in (target, torch.softmax(torch.randn(6, 5, 4, dtype=torch.float64), 1)):
            loss, gradient = ours(x, goal, upstream, **given)
            expected, expected_gradient = exact(x, goal, upstream, **given)
            torch.testing.assert_close(loss, expected)
            torch.testing.assert_close(gradient, expected_gradient, rtol=1e-12, atol=1e-13)
            assert gradient.movedim(1, 2)[upstream == 0].eq(0).all()


# Rows that count for nothing


def fill_free_memory_with_nan(*sizes_in_bytes):
    """What is allocated next, of these sizes, is not 0 by chance."""
    held = [torch.full((size // 4,), NAN) for size in sizes_in_bytes for _ in range(4)]
    del held


@options
@ways
@pytest.mark.parametrize("ignore_index", [-100, -1, 3, 30_000])
def test_ignored_rows_may_hold_anything_under_every_option(ignore_index, way, name):
    ignored, counted = [1, 2, 3, 5], [0, 4]
    for length in LENGTHS:
        x, target = logits_and_target(6, length)
        target[target == 3] = 4
        target[ignored] = ignore_index
        x[1], x[2], x[3] = NAN, INF, -INF
        x[5, :3] = torch.tensor([NAN, INF, -INF])
        given = OPTIONS[name](6, length) | {"ignore_index": ignore_index, "gradient": way}
        if "weight" in given and "label_smoothing" not in given and 0 <= ignore_index < length:
            given["weight"][ignore_index] = NAN  # no row has it as its class
        alone = given | {"temperature": given["temperature"][counted]} if name == "temperature of rows" else given
        for reduction in ("mean", "sum", "none"):
            fill_free_memory_with_nan(24 * length, 24, 48)
            loss, gradient = ours(x, target, reduction=reduction, **given)
            assert gradient[ignored].eq(0).all()
            if reduction == "none":
                assert loss[ignored].eq(0).all()
                loss = loss[counted]
            expected, expected_gradient = ours(x[counted], target[counted], reduction=reduction, **alone)
            torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
            torch.testing.assert_close(gradient[counted], expected_gradient, rtol=1e-5, atol=1e-12)


@ways
@pytest.mark.parametrize("held", [NAN, INF, -INF])
def test_ignored_rows_give_nothing_to_the_gradients_of_weights_and_temperatures(held, way):
    x, target = torch.randn(5, 7, dtype=torch.float64), torch.tensor([0, -100, 6, -100, 2])
    x[1], x[3, 2] = held, held
    weight = torch.linspace(0.5, 2, 7, dtype=torch.float64, requires_grad=True)
    for of_rows in (False, True):
        temperature = torch.full((5, 1) if of_rows else (), 0.7, dtype=torch.float64, requires_grad=True)
        for smoothing in (0.0, 0.1):
            given = {"weight": weight, "label_smoothing": smoothing, "z_loss": 0.01, "gradient": way}
            loss = softmax_ext.cross_entropy(x.requires_grad_() * 1, target, temperature=temperature, **given)
            got = torch.autograd.grad(loss, (weight, temperature))
            del given["gradient"]
            expected = reference.cross_entropy(x.detach(), target, temperature=temperature, **given)
            torch.testing.assert_close(got, torch.autograd.grad(expected, (weight, temperature)))
            assert not of_rows or got[1][[1, 3]].eq(0).all()


@options
@ways
@pytest.mark.parametrize("empty", ["nan", "zero"])
def test_where_every_row_is_ignored_or_there_is_none_the_gradient_is_0(empty, way, name):
    for rows in (0, 3):
        given = OPTIONS[name](rows, 101) | {"empty": empty, "gradient": way}
        for held in (0.5, NAN, INF):
            x, target = torch.full((rows, 101), held), torch.full((rows,), -100)
            for reduction, expected in (
                ("mean", torch.tensor(NAN if empty == "nan" else 0.0)),
                ("sum", torch.tensor(0.0)),
                ("none", torch.zeros(rows)),
            ):
                assert_same_bits(ours(x, target, reduction=reduction, **given), (expected, torch.zeros(rows, 101)))


@options
@ways
def test_the_mean_of_no_probabilities_is_empty_too(way, name):
    for empty, expected in (("nan", NAN), ("zero", 0.0)):
        loss, gradient = ours(torch.zeros(0, 7), torch.zeros(0, 7), empty=empty, gradient=way, **OPTIONS[name](0, 7))
        assert_same_bits(loss, torch.tensor(expected))
        assert gradient.shape == (0, 7)


@options
@ways
def test_the_mean_divides_by_the_weights_of_the_rows_that_count_and_of_probabilities_by_their_number(way, name):
    x, target = torch.randn(6, 5, 4, dtype=torch.float64), torch.randint(5, (6, 4))
    target[2], target[0, :2] = -100, -100
    given = OPTIONS[name](6, 5)
    if isinstance(given.get("temperature"), torch.Tensor):
        given["temperature"] = given["temperature"].unsqueeze(2)
    weight = given.get("weight", torch.ones(5)).double()
    count = weight[target[target != -100]].sum()
    for goal, number in ((target, count), (torch.softmax(torch.randn(6, 5, 4, dtype=torch.float64), 1), 24)):
        loss, gradient = ours(x, goal, gradient=way, **given)
        total, total_gradient = ours(x, goal, reduction="sum", gradient=way, **given)
        torch.testing.assert_close((loss, gradient), (total / number, total_gradient / number))
        if not {"temperature", "softcap", "z_loss"} & given.keys():
            torch.testing.assert_close(loss, F.cross_entropy(x, goal, **given | {"weight": weight}))


# Targets


@cpu_kernels_only  # on CUDA it is an assertion of the device
@options
@ways
def test_a_target_out_of_range_is_named_before_anything_is_made(way, name):
    x = torch.randn(3, 7, 4, requires_grad=True) * 1
    before, version = x.detach().clone(), x._version
    given = OPTIONS[name](3, 7)
    if isinstance(given.get("temperature"), torch.Tensor):
        given["temperature"] = given["temperature"].unsqueeze(2)
    for dtype, values in ((torch.int64, (7, -1, 2**40)), (torch.int32, (-99, 2**31 - 1)), (torch.uint8, (156, 255))):
        for value in values:
            target = torch.zeros(3, 4, dtype=dtype)
            target[1, 2] = value
            message = rf"expected targets in \[0, 7\) or ignore_index -100, got {value} at position 6"
            with pytest.raises(IndexError, match=message):
                softmax_ext.cross_entropy(x, target, gradient=way, **given)
            with pytest.raises(IndexError, match=message):
                softmax_ext.cross_entropy_with_logsumexp(x, target, **given)
    assert_same_bits(x.detach(), before)
    assert x._version == version


@options
@ways
@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8], ids=str)
def test_targets_of_every_integer_dtype_have_the_bits_of_int64(dtype, way, name):
    x, target = logits_and_target(9, 200)
    target[:3] = torch.tensor([156, 199, 0])
    given = OPTIONS[name](9, 200) | {"gradient": way}
    assert_same_bits(ours(x, target.to(dtype), **given), ours(x, target, **given))
    given["ignore_index"] = 156
    assert_same_bits(ours(x, target.to(dtype), **given), ours(x, target, **given))


@options
@ways
def test_probabilities_that_are_sure_have_the_loss_of_their_classes(way, name):
    x, target = torch.randn(5, 5, dtype=torch.float64), torch.randint(5, (5,))
    given = OPTIONS[name](5, 5) | {"reduction": "sum", "gradient": way}
    torch.testing.assert_close(ours(x, F.one_hot(target, 5).double(), **given), ours(x, target, **given))


@pytest.mark.parametrize(
    ("shape", "target_shape"),
    [
        ((4,), (4,)),
        ((4,), ()),
        ((4, 4), (4,)),
        ((4, 4), (4, 4)),
        ((4, 4), (4, 1)),
        ((4, 1), (4, 1)),
        ((4, 1), (4,)),
        ((4, 4, 4), (4, 4)),
        ((4, 4, 4), (4, 4, 4)),
        ((4, 4, 4), (4,)),
        ((4, 4, 1), (4, 1)),
        ((4, 4, 1), (4, 4)),
    ],
)
@pytest.mark.parametrize("name", ["none", "weight", "smoothing"])
def test_shapes_that_could_be_classes_or_probabilities_are_taken_by_their_dtype_as_in_torch(name, shape, target_shape):
    x = torch.randn(shape, dtype=torch.float64)
    classes = shape[0] if len(shape) == 1 else shape[1]
    given = OPTIONS[name](shape[0], classes)
    in_float64 = given | ({"weight": given["weight"].double()} if "weight" in given else {})
    for target in (torch.randint(classes, target_shape), torch.rand(target_shape, dtype=torch.float64)):
        try:
            expected = F.cross_entropy(x, target, **in_float64)
        except (RuntimeError, ValueError) as error:
            with pytest.raises(type(error), match="expected"):
                softmax_ext.cross_entropy(x, target, **given)
        else:
            for way in WAYS:
                torch.testing.assert_close(ours(x, target, gradient=way, **given)[0], expected)


# Logits in place


@options
@pytest.mark.parametrize("way", ["recompute", "forward"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_unless_it_is_asked_for_the_logits_are_not_written_and_backward_runs_again(reduction, way, name):
    x, target = logits_and_target(5, 301)
    leaf = x.clone().requires_grad_()
    logits = leaf * 1
    version = logits._version
    loss = softmax_ext.cross_entropy(logits, target, reduction=reduction, gradient=way, **OPTIONS[name](5, 301))
    upstream = torch.rand_like(loss)
    first, second, third = (torch.autograd.grad(loss, leaf, upstream, retain_graph=i < 2)[0].clone() for i in range(3))
    assert_same_bits((second, third), (first, first))
    assert_same_bits(logits.detach(), x)
    assert logits._version == version


@lengths
@options
def test_in_place_the_targets_logit_is_read_before_it_is_overwritten(name, length):
    target = torch.tensor([0, length // 2, length - 1, length // 3])
    for dtype in DTYPES:
        x, _ = logits_and_target(4, length, dtype)
        for reduction in ("mean", "none"):
            assert_loss_and_gradient(x, target, reduction=reduction, gradient="inplace", **OPTIONS[name](4, length))


@options
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_in_place_a_conversion_that_copies_nothing_lets_no_parameter_be_overwritten(reduction, name):
    parameter = torch.nn.Parameter(torch.randn(4, 5))
    before = parameter.detach().clone()
    target = torch.tensor([0, 1, 2, 3])
    try:
        softmax_ext.cross_entropy(
            parameter.float(), target, reduction=reduction, gradient="inplace", **OPTIONS[name](4, 5)
        )
    except RuntimeError as error:
        assert "leaf" in str(error)  # noqa: PT017  # where the option's gradient is not made in place it may do
    assert_same_bits(parameter.detach(), before)


# Compilers and autocast


@options
@pytest.mark.parametrize("dynamic", [False, True])
def test_numbers_among_the_options_make_nothing_float64_under_compile(dynamic, name):
    torch.compiler.reset()
    backend = AotEagerAndRecordGraphs()
    x, target = logits_and_target(5, 101, torch.bfloat16)
    given = OPTIONS[name](5, 101)
    compiled = torch.compile(softmax_ext.cross_entropy, fullgraph=True, dynamic=dynamic, backend=backend)
    leaf = x.clone().requires_grad_()
    loss = compiled(leaf, target, **given)
    expected, expected_gradient = ours(x, target, **given)
    torch.testing.assert_close(loss.detach(), expected)
    torch.testing.assert_close(torch.autograd.grad(loss, leaf)[0], expected_gradient)
    made = [node.meta.get("val") for graph in backend.fw_graphs + backend.bw_graphs for node in graph.graph.nodes]
    made = [value for value in made if isinstance(value, torch.Tensor)]
    assert any(value.numel() == x.numel() for value in made)
    assert all(value.dtype != torch.float64 for value in made if value.numel() > 101)


@options
@ways
def test_autocast_copies_no_logits_and_gives_a_float32_loss_under_every_option(way, name):
    seen = []

    class Record(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            results = function(*args, **(kwargs or {}))
            seen.extend(t for t in torch.utils._pytree.tree_leaves((args, results)) if isinstance(t, torch.Tensor))
            return results

    was = torch.is_autocast_enabled("cuda")
    torch.set_autocast_enabled("cuda", True)
    try:
        with FakeTensorMode(), torch.device("cuda"):
            x = torch.empty(3, 101, dtype=torch.bfloat16, requires_grad=True)
            target, given = torch.empty(3, dtype=torch.long), OPTIONS[name](3, 101)
            logits = x * 1
            with Record():
                loss = softmax_ext.cross_entropy(logits, target, gradient=way, **given)
    finally:
        torch.set_autocast_enabled("cuda", was)
    assert loss.dtype == torch.float32
    assert any(tensor.numel() == x.numel() for tensor in seen)
    assert all(tensor.dtype == torch.bfloat16 for tensor in seen if tensor.numel() == x.numel())


@halves
@options
@ways
def test_autocast_on_the_cpu_changes_no_bit(way, name, dtype):
    x, target = logits_and_target(5, 101, dtype)
    given = OPTIONS[name](5, 101) | {"gradient": way}
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = ours(x, target, **given)
    assert_same_bits(under_autocast, ours(x, target, **given))


@pytest.mark.parametrize("held", [float("nan"), float("inf")])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_a_row_without_probabilities_is_nan_even_if_its_class_weighs_nothing(held, label_smoothing):
    x, weight = torch.tensor([[held, 1.0, 2.0]]), torch.tensor([0.0, 1.0, 1.0])
    arguments = {"reduction": "sum", "label_smoothing": label_smoothing}
    loss = softmax_ext.cross_entropy(x, torch.tensor([0]), weight, **arguments)
    torch.testing.assert_close(loss, F.cross_entropy(x, torch.tensor([0]), weight, **arguments), equal_nan=True)
    assert loss.isnan()
