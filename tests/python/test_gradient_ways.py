"""cross_entropy's three ways to the gradient: made again in backward, made in forward, made in place of the logits."""

import pytest
import torch
from backend import cpu_kernels_only
from torch.autograd import forward_ad

import softmax_ext

NAN = float("nan")
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
        logits.movedim(1, -1).reshape(-1, shape[1])  # a copy for columns: the row is written below by index
        index = [i.item() for i in torch.unravel_index(torch.tensor(1), target.shape)]
        logits[(index[0], slice(None), *index[1:])] = NAN
    loss, gradient = loss_and_gradient(logits, target, way, 0.5, reduction=reduction)
    expected_loss, expected = loss_and_gradient(logits, target, "recompute", 0.5, reduction=reduction)
    torch.testing.assert_close(
        loss, expected_loss, rtol=4 * torch.finfo(loss.dtype).eps, atol=torch.finfo(loss.dtype).eps
    )
    # An exponential of a distance that was rounded, by another factor.
    distance = (logits.amax(1, keepdim=True) - logits).double().nan_to_num()
    bound = 6 * torch.finfo(dtype).eps * (1 + distance) * expected.double().abs() + torch.finfo(dtype).tiny
    assert ((gradient - expected).double().abs() <= bound).all()
    if rows.numel() > 2:
        assert gradient[(index[0], slice(None), *index[1:])].eq(0).all()


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

    with pytest.raises(RuntimeError, match="a leaf that requires grad"):
        loss(leaf)
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
