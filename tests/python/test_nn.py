"""The modules: constructors of torch.nn, temperature as number, buffer or parameter."""

import pytest
import torch

import softmax_ext
from softmax_ext import nn

PAIRS = [(nn.Softmax, torch.nn.Softmax), (nn.LogSoftmax, torch.nn.LogSoftmax)]
FUNCTIONS = {nn.Softmax: softmax_ext.softmax, nn.LogSoftmax: softmax_ext.log_softmax}


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
@pytest.mark.parametrize("shape", [(), (4,), (3, 4), (2, 3, 4), (2, 3, 4, 5)])
def test_without_a_dim_the_module_chooses_and_warns_as_torch_does(ours, theirs, shape):
    x = torch.randn(shape)
    with pytest.warns(UserWarning, match="Implicit dimension choice"):
        expected = theirs()(x)
    with pytest.warns(UserWarning, match="Implicit dimension choice") as caught:
        actual = ours()(x)
    torch.testing.assert_close(actual, expected)
    assert caught[0].filename == __file__
    torch.testing.assert_close(torch.jit.script(ours())(x), expected)


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_a_module_is_one_of_torchs(ours, theirs):
    module = ours(1, temperature=0.5)
    assert isinstance(module, theirs)
    assert repr(module) == f"{ours.__name__}(dim=1, temperature=0.5)"
    assert repr(ours(1)) == f"{ours.__name__}(dim=1)"


@pytest.mark.parametrize("ours", FUNCTIONS)
@pytest.mark.parametrize("temperature", [-1.0, float("nan")])
def test_a_number_that_is_no_temperature_is_refused(ours, temperature):
    with pytest.raises(ValueError, match=f"{ours.__name__}: expected a temperature of at least 0, got {temperature}"):
        ours(1, temperature=temperature)


@pytest.mark.parametrize("ours", FUNCTIONS)
def test_a_parameter_is_learned_and_a_tensor_is_a_buffer(ours):
    x = torch.randn(3, 4, dtype=torch.float64)
    learned = ours(1, temperature=torch.nn.Parameter(torch.tensor(2.0, dtype=torch.float64)))
    assert [name for name, _ in learned.named_parameters()] == ["temperature"]
    assert repr(learned) == f"{ours.__name__}(dim=1, temperature=Parameter[])"
    learned(x)[0, 0].backward()
    assert learned.temperature.grad.abs() > 1e-3
    fixed = ours(1, temperature=torch.tensor(2.0)).to(torch.float64)
    assert fixed.state_dict()["temperature"].dtype == torch.float64
    torch.testing.assert_close(fixed(x), FUNCTIONS[ours](x, 1, temperature=2.0))


def test_the_loss_has_torchs_constructor():
    ours, theirs = (
        nn.CrossEntropyLoss(None, None, 3, None, "sum"),
        torch.nn.CrossEntropyLoss(None, None, 3, None, "sum"),
    )
    x, target = torch.randn(4, 5), torch.tensor([3, 1, 0, 3])
    torch.testing.assert_close(ours(x, target), theirs(x, target))


@pytest.mark.filterwarnings("ignore:size_average and reduce args")
def test_the_repr_of_the_loss_shows_each_option_that_is_not_the_default():
    assert repr(nn.CrossEntropyLoss()) == repr(torch.nn.CrossEntropyLoss())
    assert repr(nn.CrossEntropyLoss(size_average=False)) == "CrossEntropyLoss(reduction='sum')"
    every = nn.CrossEntropyLoss(
        torch.ones(5),
        ignore_index=3,
        reduction="none",
        label_smoothing=0.1,
        temperature=torch.nn.Parameter(torch.ones(())),
        softcap=30,
        z_loss=1e-4,
        empty="zero",
        gradient="inplace",
    )
    assert repr(every) == (
        "CrossEntropyLoss(weight=Tensor[5], ignore_index=3, reduction='none', label_smoothing=0.1, "
        "temperature=Parameter[], softcap=30.0, z_loss=0.0001, empty='zero', gradient='inplace')"
    )
    every.reduction, every.softcap = "mean", None
    assert "reduction" not in repr(every)
    assert "softcap" not in repr(every)


def test_a_reduction_that_is_changed_later_counts():
    loss, x, target = nn.CrossEntropyLoss(), torch.randn(4, 5), torch.tensor([3, 1, 0, 3])
    for reduction in ("sum", "none", "mean"):
        loss.reduction = reduction
        torch.testing.assert_close(loss(x, target), softmax_ext.cross_entropy(x, target, reduction=reduction))
    loss.reduction = "average"
    with pytest.raises(ValueError, match="expected reduction 'none', 'mean' or 'sum', got 'average'"):
        loss(x, target)


@pytest.mark.parametrize("gradient", ["recompute", "forward", "inplace"])
def test_the_losss_way_to_the_gradient_is_kept_by_a_script(gradient):
    loss = torch.jit.script(nn.CrossEntropyLoss(gradient=gradient))
    leaf, target = torch.randn(4, 300, requires_grad=True), torch.tensor([3, 1, 0, 3])
    x = leaf * 1
    result = loss(x, target)
    made_in_place = not torch.equal(x, leaf)
    assert made_in_place == (gradient == "inplace")
    result.backward()
    expected = torch.softmax(leaf.detach(), 1) - torch.nn.functional.one_hot(target, 300)
    torch.testing.assert_close(leaf.grad, expected / 4)
