"""torch's own test inputs, by torch's functions run on ours with accelerate(): every call counted, values and gradients
beside those of float64."""

import copy
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db
from torch.utils._pytree import tree_map

import softmax_ext
from softmax_ext import accelerate, acceleration

pytestmark = pytest.mark.filterwarnings(
    "ignore:Implicit dimension choice", "ignore:Casting complex values", "ignore:ComplexHalf support"
)

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)

#: Newer than the oldest torch that is supported.
HAS_LINEAR = hasattr(F, "linear_cross_entropy")

#: torch's entries, and what their calls are counted as.
OPERATORS = {
    "softmax": "softmax",
    "softmax.with_dtype": "softmax",
    "log_softmax": "log_softmax",
    "log_softmax.with_dtype": "log_softmax",
    "logsumexp": "logsumexp",
    "nn.functional.softmin": "softmin",
    "nn.functional.softmin.with_dtype": "softmin",
    "nn.functional.cross_entropy": "cross_entropy",
    "masked.softmax": "softmax",
    "masked.log_softmax": "log_softmax",
    "masked.softmin": "softmin",
    "masked.logsumexp": "logsumexp",
    # Where torch has it, each way of its own to chunk it.
    **{info.full_name: "linear_cross_entropy" for info in op_db if info.name == "nn.functional.linear_cross_entropy"},
}
MODULES = {
    "nn.Softmax": "softmax",
    "nn.Softmax2d": "softmax",
    "nn.LogSoftmax": "log_softmax",
    "nn.Softmin": "softmin",
    "nn.CrossEntropyLoss": "cross_entropy",
    **({"nn.LinearCrossEntropyLoss": "linear_cross_entropy"} if HAS_LINEAR else {}),
}
#: Those with softmax or logsumexp in their name that are not ours to take, and why.
NOT_TAKEN = {
    "_softmax_backward_data": "a derivative",
    "torch.ops.aten._safe_softmax.default": "an operator of the dispatcher, not a function of torch",
    "nn.functional.scaled_dot_product_attention": "attention as one function",
}

OP_INFOS = [info for info in op_db if info.full_name in OPERATORS]
MODULE_INFOS = [info for info in module_db if info.name in MODULES]
(NLL_LOSS,) = (info for info in op_db if info.name == "nn.functional.nll_loss")


def in_float64(tensor):
    return tensor.detach().double().requires_grad_()


def operand_in_float64(value):
    return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def wider(value):
    """A ``dtype`` argument, for float64."""
    return torch.float64 if isinstance(value, torch.dtype) and value.is_floating_point else operand_in_float64(value)


def of_sample(function, sample):
    return function(sample.input, *sample.args, **sample.kwargs)


def accelerated(name, function):
    """What ``function`` returns, and that it made one call of ``name``, on ours."""
    with accelerate() as record:
        result = function()
    assert record.taken == Counter({name: 1})
    assert not record.fell_back
    assert "SoftmaxExt" in _names_of_nodes(result) or result.numel() == 0 or not result.requires_grad
    return result


def same_form(actual, expected):
    assert (actual.shape, actual.dtype, actual.device) == (expected.shape, expected.dtype, expected.device)
    assert actual.numel() == 0 or actual.stride() == expected.stride()
    assert actual.requires_grad == expected.requires_grad


def agree(actual, input, expected, reference_input, layer=None):
    """Value and gradient are those of float64: within 8 spacings of the dtype at the largest of them, and as many
    of float64 at the largest logit, the error of torch's own exp(x − logsumexp)."""
    finite = input.detach()[input.detach().isfinite()]
    largest_logit = finite.abs().max().item() if finite.numel() else 0
    spacing = torch.finfo(input.dtype).eps + torch.finfo(torch.float64).eps * largest_logit
    if layer is not None and input.numel():  # whose logits, and products with the gradient, are rounded too
        spacing *= max(1, largest_logit * layer.detach().abs().max().item() * layer.shape[-1])
    upstream = torch.randn_like(actual)
    (gradient,) = torch.autograd.grad(actual, input, upstream)
    (reference_gradient,) = torch.autograd.grad(expected, reference_input, upstream.to(expected.dtype))
    assert gradient.dtype == input.dtype
    for got, want in ((actual, expected), (gradient, reference_gradient)):
        largest = want.abs().nan_to_num(0, 0, 0).max().item() if want.numel() else 1
        torch.testing.assert_close(
            got.double(), want.double(), rtol=0, atol=8 * spacing * max(largest, 1), equal_nan=True
        )


def _names_of_nodes(tensor) -> str:
    names, pending = [], [tensor.grad_fn]
    while pending:
        node = pending.pop()
        if node is not None:
            names.append(node.name())
            pending.extend(edge for edge, _ in node.next_functions)
    return " ".join(names)


# torch's own test inputs


def test_torchs_inputs_are_the_ones_meant():
    assert sorted(info.full_name for info in OP_INFOS) == sorted(OPERATORS)
    assert sorted(info.name for info in MODULE_INFOS) == sorted(MODULES)
    words = ("softmax", "softmin", "logsumexp", "cross_entropy")
    related = {info.full_name for info in op_db if any(word in info.name for word in words)}
    of_logits = {name for name in related if not name.startswith(("nn.functional.binary", "nn.functional.gumbel"))}
    assert of_logits - set(OPERATORS) == set(NOT_TAKEN) & related


@dtypes
@pytest.mark.parametrize("info", OP_INFOS, ids=lambda info: info.full_name)
def test_torchs_operator_inputs_give_torchs_results(info, dtype):
    samples = list(info.sample_inputs("cpu", dtype, requires_grad=True))
    assert len(samples) >= 5
    is_layer = "linear" in info.name
    for sample in [*samples, *(sample.noncontiguous() for sample in samples)]:
        reference_input = in_float64(sample.input)
        arguments, options = tree_map(wider, (sample.args, sample.kwargs))
        if is_layer:  # how torch would chunk it, which has no float64
            options.pop("options", None)
        expected = info.op(reference_input, *arguments, **options)
        actual = accelerated(OPERATORS[info.full_name], lambda: of_sample(info.op, sample))  # noqa: B023
        same_form(actual, of_sample(info.op, sample))
        agree(actual, sample.input, expected, reference_input, sample.args[0] if is_layer else None)


@dtypes
@pytest.mark.parametrize("info", MODULE_INFOS, ids=lambda info: info.name)
def test_torchs_module_inputs_give_torchs_results(info, dtype):
    samples = [
        sample
        for sample in info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=True, training=True)
        if sample.forward_input is not None
    ]
    assert len(samples) >= 2
    for sample in samples:
        module = info.module_cls(*sample.constructor_input.args, **sample.constructor_input.kwargs)
        arguments, options = sample.forward_input.args, sample.forward_input.kwargs
        reference_input = in_float64(arguments[0])
        exact = copy.deepcopy(module).double()
        expected = exact(reference_input, *tree_map(operand_in_float64, arguments[1:]), **options)
        actual = accelerated(MODULES[info.name], lambda: module(*arguments, **options))  # noqa: B023
        same_form(actual, module(*arguments, **options))
        agree(actual, arguments[0], expected, reference_input)


@dtypes
def test_torchs_inputs_of_nll_loss_after_log_softmax_give_its_results(dtype):
    samples = list(NLL_LOSS.sample_inputs("cpu", dtype, requires_grad=True))
    assert len(samples) >= 10
    for sample in samples:
        dim = 0 if sample.input.dim() == 1 else 1

        def composition(input, *arguments, dim=dim, **options):
            return F.nll_loss(F.log_softmax(input, dim), *arguments, **options)

        reference_input = in_float64(sample.input)
        arguments, options = tree_map(operand_in_float64, (sample.args, sample.kwargs))
        expected = composition(reference_input, *arguments, **options)
        actual = accelerated("log_softmax", lambda: of_sample(composition, sample))  # noqa: B023
        same_form(actual, of_sample(composition, sample))
        agree(actual, sample.input, expected, reference_input)


@dtypes
def test_torchs_inputs_of_nll_loss_are_those_of_the_fused_loss(dtype):
    """Whatever is given as log-probabilities is taken as logits here."""
    for sample in NLL_LOSS.sample_inputs("cpu", dtype, requires_grad=True):
        dim = 0 if sample.input.dim() == 1 else 1
        reference_input = in_float64(sample.input)
        arguments, options = tree_map(operand_in_float64, (sample.args, sample.kwargs))
        expected = F.nll_loss(torch.log_softmax(reference_input, dim), *arguments, **options)
        actual = of_sample(softmax_ext.cross_entropy, sample)
        assert "SoftmaxExt" in _names_of_nodes(actual) or actual.numel() == 0
        agree(actual.to(dtype), sample.input, expected, reference_input)


def test_a_wrong_replacement_shows(monkeypatch):
    """That the comparisons above can fail."""
    wrong = acceleration._REPLACEMENTS[torch.log_softmax]
    info = next(info for info in OP_INFOS if info.full_name == "softmax")
    monkeypatch.setitem(
        acceleration._REPLACEMENTS, torch.softmax, acceleration._Replacement("softmax", wrong.refusal, wrong.ours)
    )
    with pytest.raises(AssertionError, match="not close"):
        test_torchs_operator_inputs_give_torchs_results(info, torch.float64)


OTHER_DTYPES = {
    f"{info.full_name} {dtype}": (info, dtype)
    for info in OP_INFOS
    for dtype in sorted(info.supported_dtypes("cpu") - set(DTYPES), key=str)
}


@pytest.mark.parametrize("name", OTHER_DTYPES)
def test_other_dtypes_give_torchs_results(name):
    """Integers on ours, complex numbers on torch's."""
    info, dtype = OTHER_DTYPES[name]
    for sample in info.sample_inputs("cpu", dtype):
        with accelerate() as record:
            actual = of_sample(info.op, sample)
        called = OPERATORS[info.full_name]
        if dtype.is_complex:
            assert record.fell_back == Counter({(called, f"dtype {str(dtype).removeprefix('torch.')}"): 1})
        else:
            assert (record.taken, record.fell_back) == (Counter({called: 1}), Counter())
        torch.testing.assert_close(actual, of_sample(info.op, sample), equal_nan=True)


def test_the_two_values_that_are_not_torchs():
    masked = torch.full((2, 3), -torch.inf, requires_grad=True)
    sure, cut = torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, -torch.inf]])

    def gradient_and_loss():
        return torch.autograd.grad(torch.logsumexp(masked, 1).sum(), masked)[0], F.cross_entropy(cut, sure)

    assert all(value.isnan().all() for value in gradient_and_loss())
    with accelerate():
        assert all(value.eq(0).all() for value in gradient_and_loss())
