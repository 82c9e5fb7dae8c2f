"""Values and gradients of cross_entropy against float64 references, on inputs that hurt."""

import math

import pytest
import reference
import tolerances
import torch
import torch.nn.functional as F

import softmax_ext

INF, NAN = math.inf, math.nan
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def loss_dtype(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


def loss_bound(expected):
    """4e-7 · max(1, loss): a few units of float32."""
    return 4e-7 * expected.abs().clamp(min=1.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [1, 2, 10, 511, 513, 5000])
def test_losses_are_within_their_bound(dtype, classes):
    for deviation in (0.1, 1.0, 30.0):
        x = (deviation * torch.randn(20, classes)).to(dtype)
        target = torch.randint(classes, (20,))
        losses = softmax_ext.cross_entropy(x, target, reduction="none")
        assert losses.dtype == loss_dtype(dtype)
        expected = reference.cross_entropy_rows(x, target)
        tolerances.assert_within(losses, expected, loss_bound(expected))
        mean = softmax_ext.cross_entropy(x, target)
        tolerances.assert_within(mean, expected.mean(), loss_bound(expected.mean()))
        total = softmax_ext.cross_entropy(x, target, reduction="sum")
        tolerances.assert_within(total, expected.sum(), 20 * loss_bound(expected.sum() / 20))


@pytest.mark.parametrize("shape", [(4,), (3, 4), (3, 4, 5), (2, 4, 3, 2), (0, 4), (3, 4, 0)])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("ignore_index", [-100, 1])
def test_every_shape_and_reduction_means_what_it_means_in_torch(shape, reduction, ignore_index):
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    target_shape = shape[:1] + shape[2:] if len(shape) > 1 else ()
    target = torch.randint(4, target_shape)
    ours = softmax_ext.cross_entropy(x, target, ignore_index=ignore_index, reduction=reduction)
    theirs = F.cross_entropy(x, target, ignore_index=ignore_index, reduction=reduction)
    torch.testing.assert_close(ours, theirs, equal_nan=True)
    g = torch.randn_like(ours)
    (ours_grad,) = torch.autograd.grad(ours, x, g)
    (theirs_grad,) = torch.autograd.grad(theirs, x, g)
    torch.testing.assert_close(ours_grad, theirs_grad, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_class_indices_of_every_integer_type_are_taken(dtype):
    x = torch.randn(5, 200)
    target = torch.tensor([0, 199, 7, 100, 3])
    torch.testing.assert_close(softmax_ext.cross_entropy(x, target.to(dtype)), F.cross_entropy(x, target))


def test_one_sample_may_bring_its_target_in_a_tensor_of_one_element():
    x = torch.randn(5)
    torch.testing.assert_close(softmax_ext.cross_entropy(x, torch.tensor([2])), F.cross_entropy(x, torch.tensor([2])))


def test_layouts_of_logits_and_targets_do_not_matter():
    x = torch.randn(6, 9, 4, dtype=torch.float64)
    target = torch.randint(9, (6, 4))
    expected = softmax_ext.cross_entropy(x, target, reduction="none")
    for layout in (x.movedim(1, 2).contiguous().movedim(2, 1), x.transpose(0, 2).contiguous().transpose(0, 2)):
        actual = softmax_ext.cross_entropy(layout, target.t().contiguous().t(), reduction="none")
        torch.testing.assert_close(actual, expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("layout", ["random", "zeros", "one row", "one column", "transposed"])
def test_upstream_gradients_of_every_layout_reach_their_rows(layout):
    x = torch.randn(6, 5, 4, dtype=torch.float64, requires_grad=True)
    target = torch.randint(5, (6, 4))
    g = torch.randn(6, 4, dtype=torch.float64)
    g = {
        "random": g,
        "zeros": g * 0,
        "one row": g[:1].expand(6, 4),
        "one column": g[:, :1].expand(6, 4),
        "transposed": g.t().contiguous().t(),
    }[layout]
    (ours,) = torch.autograd.grad(softmax_ext.cross_entropy(x, target, reduction="none"), x, g)
    (theirs,) = torch.autograd.grad(F.cross_entropy(x, target, reduction="none"), x, g)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("hostile", [NAN, INF, -INF])
@pytest.mark.parametrize("ignore_index", [-100, 3])
def test_an_ignored_row_has_zero_loss_and_gradient_whatever_it_holds(hostile, ignore_index):
    x = torch.randn(4, 7)
    x[1], x[2, 0] = hostile, hostile
    x.requires_grad_()
    target = torch.tensor([0, ignore_index, ignore_index, 5])
    losses = softmax_ext.cross_entropy(x, target, ignore_index=ignore_index, reduction="none")
    assert torch.equal(losses[1:3], torch.zeros(2))
    losses.sum().backward()
    assert torch.equal(x.grad[1:3], torch.zeros(2, 7))
    expected = reference.cross_entropy_rows(x.detach()[[0, 3]], target[[0, 3]])
    mean = softmax_ext.cross_entropy(x, target, ignore_index=ignore_index)
    torch.testing.assert_close(mean.detach().double(), expected.mean(), rtol=4e-7, atol=4e-7)


@pytest.mark.parametrize("rows", [0, 3])
def test_the_mean_over_no_row_is_nan_with_zero_gradient(rows):
    x = torch.randn(rows, 4, requires_grad=True)
    loss = softmax_ext.cross_entropy(x, torch.full((rows,), -100))
    assert loss.isnan()
    loss.backward()
    assert torch.equal(x.grad, torch.zeros(rows, 4))


def test_a_masked_target_has_infinite_loss_and_finite_gradient():
    x = torch.tensor([[0.0, -INF, 0.0]], requires_grad=True)
    loss = softmax_ext.cross_entropy(x, torch.tensor([1]))
    assert loss == INF
    loss.backward()
    torch.testing.assert_close(x.grad, torch.tensor([[0.5, -1.0, 0.5]]))


def test_rows_without_a_softmax_have_nan_loss_as_in_torch():
    x = torch.tensor([[-INF, -INF, -INF], [INF, 0.0, 1.0], [NAN, 0.0, 1.0], [0.0, 1.0, 2.0]])
    target = torch.tensor([0, 1, 2, 1])
    ours = softmax_ext.cross_entropy(x, target, reduction="none")
    torch.testing.assert_close(ours, F.cross_entropy(x, target, reduction="none"), equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", [0.0, 1e4, -1e4])
def test_gradients_keep_their_accuracy_for_large_logits(dtype, offset):
    if dtype in (torch.bfloat16, torch.float16) and offset:
        x = (torch.randn(8, 300) * 3).to(dtype) + torch.tensor(offset).to(dtype)
    else:
        x = 3 * torch.randn(8, 300, dtype=dtype) + offset
    x.requires_grad_()
    target = torch.randint(300, (8,))
    (actual,) = torch.autograd.grad(softmax_ext.cross_entropy(x, target, reduction="sum"), x)
    expected = reference.softmax(x.detach(), 1) - F.one_hot(target, 300)
    ideal = (expected.to(dtype).double() - expected).norm()
    error = (actual.double() - expected).norm()
    # 16 bits: hardly more than rounding the exact gradient. Else a few units of each element's size.
    if dtype in (torch.bfloat16, torch.float16):
        assert error <= 1.2 * ideal
    else:
        assert error <= 16 * tolerances.unit(dtype) * expected.norm()


@pytest.mark.parametrize("gap", [2.0, 7.0, 11.5, 16.1])  # probabilities of the true class up to 1 − 1e-7
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_the_true_class_gradient_does_not_cancel(gap, offset):
    x = torch.tensor([[offset, offset - gap]], requires_grad=True)
    (grad,) = torch.autograd.grad(softmax_ext.cross_entropy(x, torch.tensor([0])), x)
    expected = -torch.sigmoid(x.detach().double()[0, 1] - x.detach().double()[0, 0])
    assert abs(grad[0, 0].double() - expected) <= 2e-7 * min(1.0, 8 * abs(expected))


def test_the_mean_of_many_losses_keeps_float32_accuracy():
    x = torch.randn(100_000, 3)
    target = torch.randint(3, (100_000,))
    expected = reference.cross_entropy_rows(x, target).mean()
    assert (
        abs(softmax_ext.cross_entropy(x, target).double() - expected) <= 2 * tolerances.unit(torch.float32) * expected
    )


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_what_is_saved_for_backward_is_the_logits_and_two_numbers_a_row(reduction):
    saved = []
    x = torch.randn(6, 50, requires_grad=True)
    target = torch.randint(50, (6,))
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        softmax_ext.cross_entropy(x, target, reduction=reduction)
    extra = [t for t in saved if t.data_ptr() not in (x.data_ptr(), target.data_ptr())]
    how_many_rows = 8
    assert sum(t.numel() * t.element_size() for t in extra) == 6 * 8 + how_many_rows


@pytest.mark.parametrize("size_average", [None, True, False])
@pytest.mark.parametrize("reduce", [None, True, False])
@pytest.mark.filterwarnings("ignore:size_average and reduce args")
def test_the_deprecated_arguments_choose_the_reduction_as_in_torch(size_average, reduce):
    x, target = torch.randn(5, 3), torch.randint(3, (5,))
    ours = softmax_ext.cross_entropy(x, target, None, size_average, -100, reduce)
    torch.testing.assert_close(ours, F.cross_entropy(x, target, None, size_average, -100, reduce))


def test_results_do_not_depend_on_threads_or_batch():
    x, target = torch.randn(64, 3000), torch.randint(3000, (64,))
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(softmax_ext.cross_entropy(x, target, reduction="none"))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    assert torch.equal(softmax_ext.cross_entropy(x[5:6], target[5:6], reduction="none"), results[0][5:6])
