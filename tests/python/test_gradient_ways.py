"""cross_entropy's three ways to the gradient: made again in backward, made in forward, made in place of the logits."""

import pytest
import torch
from backend import cpu_kernels_only
from torch.autograd import forward_ad

import softmax_ext

INF, NAN = float("inf"), float("nan")
WAYS = ["recompute", "forward", "inplace"]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
# Transposed and unrolled short rows, rows whose terms are kept, rows in chunks, few of those, columns.
SHAPES = [(9, 5), (9, 100), (21, 256), (21, 257), (3, 4096), (9, 4097), (1, 20_001), (2, 7, 5, 3), (2, 300, 3)]

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
made_in_forward = pytest.mark.parametrize("way", ["forward", "inplace"])


def batch(shape, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = (3 * torch.randn(shape, generator=generator)).to(dtype)
    target = torch.randint(shape[1], shape[:1] + shape[2:], generator=generator)
    return logits, target


def loss_and_gradient(logits, target, way, scale=1.0, **options):
    """The loss, and the gradient of ``scale`` · loss for the result of an operator on a leaf."""
    leaf = logits.clone().requires_grad_()
    loss = softmax_ext.cross_entropy(leaf * 1, target, gradient=way, **options)
    (scale * loss).sum().backward()
    return loss.detach(), leaf.grad


@dtypes
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@made_in_forward
def test_the_loss_and_the_gradient_are_those_of_a_recomputed_one(way, reduction, shape, dtype):
    logits, target = batch(shape, dtype)
    rows = target.view(-1)
    if rows.numel() > 2:
        rows[1] = -100
        place, *others = [i.item() for i in torch.unravel_index(torch.tensor(1), target.shape)]
        ignored = (place, slice(None), *others)
        logits[ignored] = NAN
    loss, gradient = loss_and_gradient(logits, target, way, 0.5, reduction=reduction)
    expected_loss, expected = loss_and_gradient(logits, target, "recompute", 0.5, reduction=reduction)
    torch.testing.assert_close(
        loss, expected_loss, rtol=4 * torch.finfo(loss.dtype).eps, atol=torch.finfo(loss.dtype).eps
    )
    # An exponential of a distance that was rounded, by another factor; then rounded once or, scaled, twice.
    distance = (logits.amax(1, keepdim=True) - logits).double().nan_to_num()
    arithmetic = torch.finfo(loss.dtype).eps
    unit = 1.1 * torch.finfo(dtype).eps if dtype.itemsize == 2 else 0
    bound = (unit + 12 * arithmetic * (1 + distance)) * expected.double().abs() + torch.finfo(dtype).smallest_normal
    assert ((gradient - expected).double().abs() <= bound).all()
    if rows.numel() > 2:
        assert gradient[ignored].eq(0).all()


@made_in_forward
def test_an_upstream_gradient_of_1_costs_no_rounding(way):
    logits, target = batch((9, 300), torch.bfloat16)
    _, gradient = loss_and_gradient(logits, target, way)
    probs = torch.softmax(logits.double(), 1)
    exact = (probs - torch.nn.functional.one_hot(target, 300)) / 9
    off = (gradient.double() - exact).abs() / exact.abs()
    assert off.max() <= torch.finfo(torch.bfloat16).eps / 2 * 1.001


@pytest.mark.parametrize("strided", [False, True], ids=["contiguous", "strided"])
def test_in_place_the_logits_become_the_gradient(strided):
    logits, target = batch((9, 300))
    leaf = logits.clone().requires_grad_()
    x = leaf * 1
    if strided:
        x = torch.stack([x, x], -1)[..., 0]
    version = x._version
    loss = softmax_ext.cross_entropy(x, target, gradient="inplace")
    assert x._version > version
    expected = loss_and_gradient(logits, target, "recompute")[1]
    torch.testing.assert_close(x.detach(), expected)
    (gradient,) = torch.autograd.grad(loss, leaf)
    torch.testing.assert_close(gradient, expected)
    if not strided:
        x = logits.clone().requires_grad_() * 1
        (gradient,) = torch.autograd.grad(softmax_ext.cross_entropy(x, target, gradient="inplace"), x)
        assert gradient.data_ptr() == x.data_ptr()


def test_without_a_gradient_the_logits_are_left_alone():
    logits, target = batch((9, 300))
    before = logits.clone()
    softmax_ext.cross_entropy(logits, target, gradient="inplace")
    leaf = logits.clone().requires_grad_()
    with torch.no_grad():
        softmax_ext.cross_entropy(leaf * 1, target, gradient="inplace")
        softmax_ext.cross_entropy(leaf, target, gradient="inplace")
    assert torch.equal(logits, before)
    assert torch.equal(leaf, before)


def test_another_backward_that_needs_the_overwritten_logits_raises():
    leaf = torch.randn(4, 5, requires_grad=True)
    x = leaf * 1
    other = x.square().sum()
    loss = softmax_ext.cross_entropy(x, torch.zeros(4, dtype=torch.int64), gradient="inplace")
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        (loss + other).backward()


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("rows", [1, 2])
@made_in_forward
def test_few_long_rows_that_threads_share(way, rows, threads):
    logits, target = batch((rows, 30_001))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        loss, gradient = loss_and_gradient(logits, target, way)
    finally:
        torch.set_num_threads(before)
    probs = torch.softmax(logits.double(), 1)
    expected = (probs - torch.nn.functional.one_hot(target, 30_001)) / rows
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(
        loss.double(), torch.nn.functional.cross_entropy(logits.double(), target), rtol=1e-6, atol=0
    )


def test_logits_of_more_dims_than_rows_are_found_by_are_overwritten_where_they_are():
    base = torch.randn((4,) * 8)
    target = torch.randint(3, (3,) * 7)
    leaf = base.clone().requires_grad_()
    x = (leaf * 1)[(slice(0, 3),) * 8]
    softmax_ext.cross_entropy(x, target, gradient="inplace").backward()
    other = base.clone().requires_grad_()
    softmax_ext.cross_entropy(other[(slice(0, 3),) * 8], target).backward()
    torch.testing.assert_close(leaf.grad, other.grad)
    torch.testing.assert_close(x.detach(), other.grad[(slice(0, 3),) * 8])


@pytest.mark.parametrize("of", ["leaf", "view of a leaf", "one of several views"])
def test_what_must_not_be_overwritten_raises(of):
    leaf = torch.randn(20, requires_grad=True)
    logits = {"leaf": lambda: leaf.view(4, 5).detach().requires_grad_(), "view of a leaf": lambda: leaf.view(4, 5)}.get(
        of, lambda: (leaf * 1).view(4, 5).chunk(1)[0]
    )()
    before = logits.detach().clone()
    with pytest.raises(RuntimeError, match=r"leaf|multiple views"):
        softmax_ext.cross_entropy(logits, torch.zeros(4, dtype=torch.int64), gradient="inplace")
    assert torch.equal(logits, before)


def test_forward_over_reverse_has_the_tangent_of_a_gradient_made_in_forward():
    leaf, direction = torch.randn(4, 5, dtype=torch.float64, requires_grad=True), torch.randn(4, 5, dtype=torch.float64)
    target = torch.tensor([0, 1, 2, 3])
    products = []
    for way in ("recompute", "forward"):
        with forward_ad.dual_level():
            x = forward_ad.make_dual(leaf, direction)
            (gradient,) = torch.autograd.grad(softmax_ext.cross_entropy(x, target, gradient=way), x)
            products.append(forward_ad.unpack_dual(gradient).tangent)
    torch.testing.assert_close(*products)


@pytest.mark.parametrize("way", WAYS)
def test_a_class_that_is_ignore_index_in_the_targets_dtype_alone_counts(way):
    """156 as uint8 is −100 where the number wraps."""
    x = torch.randn(2, 200, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([156, 3], dtype=torch.uint8)

    def second_order(target):
        if way == "inplace":
            return loss_and_gradient(x.detach(), target, way)[1]
        loss = softmax_ext.cross_entropy(x, target, gradient=way)
        (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), x)[0]

    torch.testing.assert_close(second_order(target), second_order(target.long()))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("upstream", [INF, NAN])
def test_an_ignored_row_has_gradient_0_whatever_comes_for_its_loss(upstream, way):
    target = torch.tensor([0, -100, 1])
    for reduction, scale in (("none", torch.tensor([1.0, upstream, 1.0])), ("mean", upstream), ("sum", upstream)):
        _, gradient = loss_and_gradient(torch.randn(3, 300), target, way, scale, reduction=reduction)
        assert gradient[1].eq(0).all()
        if reduction == "none":
            assert gradient.isfinite().all()


def test_a_second_backward_in_place_raises_where_hooks_save():
    x = torch.randn(4, 5, requires_grad=True) * 1
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
        loss = 2 * softmax_ext.cross_entropy(x, torch.zeros(4, dtype=torch.int64), gradient="inplace")
    torch.autograd.grad(loss, x, retain_graph=True)
    with pytest.raises(RuntimeError, match="expected one backward after gradient='inplace'"):
        torch.autograd.grad(loss, x)


@cpu_kernels_only
def test_a_call_that_raises_leaves_the_version_of_the_logits_too():
    x = torch.randn(4, 5, requires_grad=True) * 1
    other = x.square().sum()
    with pytest.raises(IndexError):
        softmax_ext.cross_entropy(x, torch.tensor([0, 1, 2, 5]), gradient="inplace")
    other.backward()


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_a_second_backward_in_place_raises(scale):
    x = torch.randn(4, 5, requires_grad=True) * 1
    loss = scale * softmax_ext.cross_entropy(x, torch.zeros(4, dtype=torch.int64), gradient="inplace")
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_a_second_backward_of_a_gradient_of_its_own_is_the_first(scale):
    leaf = torch.randn(4, 5, requires_grad=True)
    loss = scale * softmax_ext.cross_entropy(leaf * 1, torch.zeros(4, dtype=torch.int64), gradient="forward")
    first, second, third = (torch.autograd.grad(loss, leaf, retain_graph=i < 2)[0].clone() for i in range(3))
    torch.testing.assert_close(second, first)
    torch.testing.assert_close(third, first)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_in_place_what_is_not_possible_says_so():
    target = torch.zeros(4, dtype=torch.int64)
    leaf = torch.randn(4, 5, requires_grad=True)

    def loss(x):
        return softmax_ext.cross_entropy(x, target, gradient="inplace")

    with pytest.raises(RuntimeError, match="has no derivative of its derivative"):
        torch.autograd.grad(loss(leaf * 1), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match=r"torch\.func needs"):
        torch.func.grad(loss)(leaf.detach())
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="no forward-mode derivative"):
        loss(forward_ad.make_dual(leaf * 1, torch.ones(4, 5)))
    with pytest.raises(ValueError, match="expected gradient 'recompute', 'forward' or 'inplace', got 'twice'"):
        softmax_ext.cross_entropy(leaf, target, gradient="twice")


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_gradient_made_in_forward_has_every_derivative(reduction):
    target = torch.tensor([2, -100, 0, 3])
    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)

    def loss(x):
        return softmax_ext.cross_entropy(x, target, reduction=reduction, gradient="forward")

    torch.autograd.gradcheck(loss, x, check_forward_ad=True, check_batched_grad=True)
    torch.autograd.gradgradcheck(loss, x)
    plain = lambda x: softmax_ext.cross_entropy(x, target, reduction=reduction).sum()  # noqa: E731
    mine = lambda x: loss(x).sum()  # noqa: E731
    torch.testing.assert_close(torch.func.grad(mine)(x), torch.func.grad(plain)(x))
    torch.testing.assert_close(torch.func.hessian(mine)(x), torch.func.hessian(plain)(x))
    samples = torch.randn(3, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(
        torch.func.vmap(torch.func.grad(mine))(samples), torch.func.vmap(torch.func.grad(plain))(samples)
    )


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_every_way_compiles(reduction, way):
    target = torch.tensor([2, -100, 0, 3])
    leaf = torch.randn(4, 5, requires_grad=True)

    def step(leaf):
        return softmax_ext.cross_entropy(leaf * 1, target, reduction=reduction, gradient=way)

    loss = torch.compile(step, fullgraph=True, backend="aot_eager")(leaf)
    upstream = torch.rand_like(loss)
    (gradient,) = torch.autograd.grad(loss, leaf, upstream)
    expected = torch.autograd.grad(step(leaf), leaf, upstream)[0]
    torch.testing.assert_close(loss, step(leaf))
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("way", WAYS)
def test_every_way_works_where_nothing_is_valid_or_there_is_nothing(way):
    loss, gradient = loss_and_gradient(torch.randn(3, 5), torch.full((3,), -100), way)
    assert loss.isnan()
    assert gradient.eq(0).all()
    loss, gradient = loss_and_gradient(torch.randn(0, 5), torch.zeros(0, dtype=torch.int64), way, reduction="sum")
    assert loss == 0
    assert gradient.shape == (0, 5)
    loss, gradient = loss_and_gradient(torch.tensor([1.0, 2.0]), torch.tensor(1), way)
    torch.testing.assert_close(gradient, torch.softmax(torch.tensor([1.0, 2.0]), 0) - torch.tensor([0.0, 1.0]))


@cpu_kernels_only
def test_what_is_wrong_with_a_target_is_said_before_the_logits_are_overwritten():
    x = torch.randn(4, 5, requires_grad=True) * 1
    before = x.detach().clone()
    with pytest.raises(IndexError, match="got 5 at position 3"):
        softmax_ext.cross_entropy(x, torch.tensor([0, 1, 2, 5]), gradient="inplace")
    assert torch.equal(x, before)


def test_opcheck_passes_for_what_writes_to_an_argument():
    logits, target = batch((6, 20))
    in_place = torch.ops.softmax_ext._cross_entropy_in_place.default
    torch.library.opcheck(in_place, (logits, target, 1, 1, 0, -100))
    torch.library.opcheck(torch.ops.softmax_ext._scale_gradient.default, (logits, torch.rand(6), 1))


@dtypes
@pytest.mark.parametrize("shape", [(6, 20), (3, 7, 5)], ids=str)
@pytest.mark.parametrize("dims", [0, 1, "all"])
def test_a_gradient_is_scaled_by_one_number_or_by_that_of_its_row(dims, shape, dtype):
    gradient, _ = batch(shape, dtype)
    rows = shape[:1] + shape[2:]
    numbers = torch.rand(rows if dims == "all" else rows[:dims], dtype=torch.promote_types(dtype, torch.float32))
    expected = numbers.reshape(numbers.shape + (1,) * (len(rows) - numbers.dim())).unsqueeze(1) * gradient
    torch.ops.softmax_ext._scale_gradient(gradient, numbers, 1)
    torch.testing.assert_close(gradient, expected.to(dtype))
