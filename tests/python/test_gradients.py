"""Derivatives: every order, forward and backward, against finite differences and against torch in float64."""

import math
import threading

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from operators import (
    CASES,
    CLOSE,
    OPERATORS,
    PRIMITIVE_CASES,
    cubed_sum,
    name_of,
    random_logits,
    random_temperature,
    value_and_gradients,
)
from torch.autograd import gradcheck, gradgradcheck

import softmax_ext

FAMILY = [operator for operator in OPERATORS if operator.has_temperature]
NORMALIZED = [softmax_ext.softmax, softmax_ext.log_softmax]
TORCH = {softmax_ext.softmax: torch.softmax, softmax_ext.log_softmax: torch.log_softmax}

operators = pytest.mark.parametrize("operator", OPERATORS, ids=name_of)
family = pytest.mark.parametrize("operator", FAMILY, ids=name_of)
cases = pytest.mark.parametrize("case", CASES, ids=name_of)
primitive_cases = pytest.mark.parametrize("case", PRIMITIVE_CASES, ids=name_of)

ALL_FIRST_ORDER_CHECKS = {
    "check_forward_ad": True,
    "check_backward_ad": True,
    "check_batched_grad": True,
    "check_batched_forward_grad": True,
    "check_undefined_grad": True,
}
ALL_SECOND_ORDER_CHECKS = {
    "check_fwd_over_rev": True,
    "check_rev_over_rev": True,
    "check_batched_grad": True,
}


# Finite differences


@cases
def test_value_and_gradients_are_those_of_torch(case):
    inputs = case.inputs()
    torch.testing.assert_close(
        value_and_gradients(case.ours, inputs), value_and_gradients(case.reference, inputs), **CLOSE
    )


@cases
def test_first_derivatives_are_finite_differences(case):
    inputs = case.inputs(requires_grad=True)
    assert gradcheck(case.ours, inputs, **ALL_FIRST_ORDER_CHECKS)


@cases
def test_second_derivatives_are_finite_differences(case):
    inputs = case.inputs(requires_grad=True)
    assert gradgradcheck(case.ours, inputs, **ALL_SECOND_ORDER_CHECKS)


@pytest.mark.parametrize(
    ("operator", "with_temperature"),
    [(operator, False) for operator in OPERATORS] + [(operator, True) for operator in FAMILY],
    ids=name_of,
)
def test_third_derivatives_are_finite_differences(operator, with_temperature):
    inputs = (random_logits((2, 3)), random_temperature((2, 1)))[: 1 + with_temperature]
    inputs = [tensor.requires_grad_() for tensor in inputs]

    def second(*inputs):
        first = torch.autograd.grad(cubed_sum(operator.ours)(*inputs), inputs, create_graph=True)
        return torch.autograd.grad(sum(g.pow(2).sum() for g in first), inputs, create_graph=True)

    assert gradcheck(second, inputs)


@primitive_cases
def test_first_derivatives_of_primitives_are_finite_differences(case):
    function, inputs = case.of_differentiable()
    assert gradcheck(function, inputs, **ALL_FIRST_ORDER_CHECKS)


@primitive_cases
def test_second_derivatives_of_primitives_are_finite_differences(case):
    function, inputs = case.of_differentiable()
    assert gradgradcheck(function, inputs, **ALL_SECOND_ORDER_CHECKS)


# dtype


@pytest.mark.parametrize("temperature", [None, 0.7, "tensor"])
@pytest.mark.parametrize("function", NORMALIZED)
@pytest.mark.parametrize(
    ("dtype", "result_dtype"),
    [
        (torch.float32, torch.float64),
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.bfloat16),
        (torch.float64, torch.float32),
        (torch.float64, torch.bfloat16),
    ],
)
def test_dtype_converts_the_gradient_back(function, dtype, result_dtype, temperature):
    logits, weights, tangent = random_logits((3, 6), dtype), random_logits((3, 6)), random_logits((3, 6), dtype)
    temperatures = (torch.tensor([[0.5], [0.75], [1.5]]),) if temperature == "tensor" else ()

    def derivatives(call, logits, tangent, *temperatures):
        """Value, gradients, gradients of the squared gradient of the logits, tangent."""
        inputs = [tensor.detach().requires_grad_() for tensor in (logits, *temperatures)]
        value = call(*inputs)
        first = torch.autograd.grad((value**2 * weights.to(value.dtype)).sum(), inputs, create_graph=True)
        second = torch.autograd.grad(first[0].pow(2).sum(), inputs)
        with forward_ad.dual_level():
            duals = [forward_ad.make_dual(logits.detach(), tangent)]
            duals += [forward_ad.make_dual(t.detach(), t.detach().cos()) for t in temperatures]
            forward = forward_ad.unpack_dual(call(*duals)).tangent
        return value, *first, *second, forward

    def ours(logits, tensor=None):
        number = temperature if isinstance(temperature, float) else tensor
        return function(logits, 1, dtype=result_dtype, temperature=number)

    def reference(logits, tensor=None):
        number = temperature if isinstance(temperature, float) else 1.0
        return TORCH[function](logits / (number if tensor is None else tensor), 1)

    actual = derivatives(ours, logits, tangent, *temperatures)
    expected = derivatives(reference, logits.double(), tangent.double(), *(t.double() for t in temperatures))
    inputs = [dtype, torch.float32][: 1 + len(temperatures)]
    assert [tensor.dtype for tensor in actual] == [result_dtype, *inputs, *inputs, result_dtype]
    # Each derivative is a chain of some ten operations that round to the narrower of the two dtypes.
    error = 16 * max(torch.finfo(dtype).eps, torch.finfo(result_dtype).eps)
    for got, want in zip(actual, expected, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=error, atol=error * want.abs().max().item())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@operators
def test_gradients_of_narrow_logits_have_their_dtype(operator, dtype):
    logits = random_logits((4, 7), dtype)
    inputs = [logits, random_temperature((4, 1), torch.float32)][: 1 + operator.has_temperature]
    actual = value_and_gradients(operator.ours, inputs)
    expected = value_and_gradients(operator.reference, [tensor.double() for tensor in inputs])
    assert [gradient.dtype for gradient in actual[1:]] == [tensor.dtype for tensor in inputs]
    error = 16 * torch.finfo(dtype).eps
    for got, want in zip(actual, expected, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=error, atol=error * want.abs().max().item())


def test_a_temperature_of_another_dtype_gets_its_gradient_in_that_dtype():
    logits, temperature = random_logits((3, 5), torch.bfloat16), torch.tensor(0.75, dtype=torch.float64)
    for operator in FAMILY:
        actual = value_and_gradients(operator.ours, (logits, temperature))[2]
        expected = value_and_gradients(operator.reference, (logits.double(), temperature))[2]
        assert actual.dtype == torch.float64
        torch.testing.assert_close(actual, expected, rtol=0.05, atol=16 * torch.finfo(torch.bfloat16).eps)


# Which gradients are computed


@family
def test_temperature_alone_takes_a_gradient(operator):
    logits, temperature = random_logits((3, 4)), random_temperature((3, 1)).requires_grad_()
    value = operator.ours(logits, temperature)
    (actual,) = torch.autograd.grad((value**3).sum(), temperature)
    expected = value_and_gradients(operator.reference, (logits, temperature))[2]
    torch.testing.assert_close(actual, expected, **CLOSE)
    assert logits.grad is None


@family
def test_logits_alone_take_a_gradient(operator):
    logits, temperature = random_logits((3, 4)).requires_grad_(), random_temperature((3, 1))
    value = operator.ours(logits, temperature)
    (actual,) = torch.autograd.grad((value**3).sum(), logits)
    expected = value_and_gradients(operator.reference, (logits, temperature))[1]
    torch.testing.assert_close(actual, expected, **CLOSE)


@operators
def test_nothing_is_recorded_without_need(operator):
    logits = random_logits((3, 4))
    assert not operator.ours(logits).requires_grad
    needed = logits.clone().requires_grad_()
    assert operator.ours(needed).requires_grad
    with torch.no_grad():
        assert not operator.ours(needed).requires_grad
    with torch.inference_mode():
        result = operator.ours(logits)
        assert result.is_inference()
    torch.testing.assert_close(result.clone(), operator.reference(logits), **CLOSE)


@family
def test_a_temperature_gradient_is_not_lost_under_no_grad_of_the_logits(operator):
    with torch.no_grad():
        logits = random_logits((3, 4))
    temperature = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    operator.ours(logits, temperature).pow(2).sum().backward()
    reference_temperature = temperature.detach().clone().requires_grad_()
    operator.reference(logits, reference_temperature).pow(2).sum().backward()
    torch.testing.assert_close(temperature.grad, reference_temperature.grad, **CLOSE)


# The graph


@operators
def test_backward_runs_again_only_if_the_graph_was_retained(operator):
    logits = random_logits((3, 4)).requires_grad_()
    loss = operator.ours(logits).sum()
    loss.backward(retain_graph=True)
    once = logits.grad.clone()
    loss.backward()
    torch.testing.assert_close(logits.grad, 2 * once, **CLOSE)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()


@pytest.mark.parametrize("function", NORMALIZED)
def test_a_result_changed_in_place_is_detected(function):
    logits = random_logits((3, 4)).requires_grad_()
    probs = function(logits, 1)
    loss = probs.sum()
    with torch.no_grad():
        probs.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("name", ["logsumexp", "cross_entropy", "entropy"])
def test_logits_changed_in_place_are_detected(name):
    operator = next(operator for operator in OPERATORS if operator.name == name)
    logits = random_logits((3, 4)).requires_grad_()
    loss = operator.ours(logits).sum()
    with torch.no_grad():
        logits.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@family
def test_a_temperature_changed_in_place_is_detected(operator):
    logits, temperature = random_logits((3, 4)).requires_grad_(), random_temperature((3, 1))
    loss = operator.ours(logits, temperature).sum()
    temperature.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_target_changed_in_place_is_detected():
    logits, target = random_logits((3, 4)).requires_grad_(), torch.tensor([0, 1, 2])
    loss = softmax_ext.cross_entropy(logits, target)
    target[0] = 3
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("function", NORMALIZED)
def test_logits_may_change_in_place_after_a_plain_call(function):
    logits = random_logits((3, 4)).requires_grad_()
    expected = value_and_gradients(lambda x: function(x, 1), (logits,))[1]
    value = function(logits, 1)
    with torch.no_grad():
        logits.zero_()
    (actual,) = torch.autograd.grad((value**3).sum(), logits)
    torch.testing.assert_close(actual, expected, **CLOSE)


@pytest.mark.parametrize("function", NORMALIZED)
def test_a_graph_of_100_000_calls_is_differentiated_and_freed_without_recursion(function):
    # A recursive release would overflow the stack and end the process.
    logits = torch.zeros(2, requires_grad=True)
    result = logits
    for _ in range(100_000):
        result = function(result, 0)
    (gradient,) = torch.autograd.grad(result.sum(), logits, retain_graph=True)
    assert gradient.shape == (2,)
    assert not gradient.isnan().any()
    del result


@operators
def test_threads_may_run_backward_through_one_graph_at_once(operator):
    logits = random_logits((32, 40)).requires_grad_()
    loss = (operator.ours(logits) ** 3).sum()
    expected = value_and_gradients(operator.reference, (logits,))[1]
    results = [None] * 8
    start = threading.Barrier(len(results))

    def run(index):
        start.wait()
        for _ in range(20):
            (results[index],) = torch.autograd.grad(loss, logits, retain_graph=True)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(results))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        torch.testing.assert_close(result, expected, **CLOSE)


# Limits: what finite differences cannot tell


@pytest.mark.parametrize("function", NORMALIZED)
@pytest.mark.parametrize("limit", [0.0, math.inf])
def test_every_derivative_is_0_at_both_limits_of_the_temperature(function, limit):
    logits = torch.tensor([[1.0, 3.0, 3.0], [-math.inf, 2.0, 0.5]], dtype=torch.float64, requires_grad=True)
    weights = random_logits((2, 3))

    temperature = torch.full((), limit, dtype=torch.float64, requires_grad=True)
    for inputs, call in [
        ((logits, temperature), lambda x, t: function(x, 1, temperature=t)),
        ((logits,), lambda x: function(x, 1, temperature=limit)),
    ]:
        value = call(*inputs)
        first = torch.autograd.grad(
            value.masked_fill(value.isinf(), 0), inputs, grad_outputs=weights, create_graph=True
        )
        for gradient in first:
            assert torch.equal(gradient, torch.zeros_like(gradient))
        second = torch.autograd.grad(sum(gradient.sum() for gradient in first), inputs, allow_unused=True)
        for gradient in second:
            assert gradient is None or torch.equal(gradient, torch.zeros_like(gradient))
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(tensor.detach(), torch.ones_like(tensor)) for tensor in (logits, temperature)]
        tangent = forward_ad.unpack_dual(function(duals[0], 1, temperature=duals[1])).tangent
    assert torch.equal(tangent, torch.zeros_like(tangent))


def test_every_derivative_of_logsumexp_is_0_at_infinite_temperature():
    logits = torch.tensor([[1.0, 3.0, 3.0], [-math.inf, 2.0, 0.5]], dtype=torch.float64, requires_grad=True)
    temperature = torch.full((), math.inf, dtype=torch.float64, requires_grad=True)
    for inputs, t in (((logits, temperature), temperature), ((logits,), math.inf)):
        for gradient in torch.autograd.grad(softmax_ext.logsumexp(logits, 1, temperature=t).sum(), inputs):
            assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("operator", [o for o in FAMILY if o.name != "causal_softmax"], ids=name_of)
@pytest.mark.parametrize("with_temperature", [False, True])
def test_logits_of_minus_infinity_take_part_in_no_gradient(operator, with_temperature):
    present = random_logits((3, 4))
    logits = torch.cat([present, torch.full((3, 2), -math.inf, dtype=torch.float64)], dim=1)
    temperature = (random_temperature((3, 1)),) * with_temperature

    def of_present(function):
        """Of the entries that the −inf ones leave alone."""
        return lambda x, *t: function(x, *t)[..., :4] if function(x, *t).dim() == 2 else function(x, *t)

    actual = value_and_gradients(of_present(operator.ours), (logits, *temperature))
    expected = value_and_gradients(operator.reference, (present, *temperature))
    torch.testing.assert_close(actual[0], expected[0], **CLOSE)
    torch.testing.assert_close(actual[1][:, :4], expected[1], **CLOSE)
    assert torch.equal(actual[1][:, 4:], torch.zeros(3, 2, dtype=torch.float64))
    torch.testing.assert_close(actual[2:], expected[2:], **CLOSE)


def test_cross_entropy_gives_logits_of_minus_infinity_no_gradient():
    logits = torch.tensor([[1.0, -math.inf, 0.5], [-math.inf, 0.0, 2.0]], dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0, 2])
    (gradient,) = torch.autograd.grad(softmax_ext.cross_entropy(logits, target, reduction="sum"), logits)
    probs = torch.softmax(logits.detach(), 1)
    torch.testing.assert_close(gradient, probs - torch.nn.functional.one_hot(target, 3), **CLOSE)
    assert gradient[0, 1] == 0
    assert gradient[1, 0] == 0


@pytest.mark.parametrize("temperature", [None, 0.7, "tensor"])
def test_a_row_of_minus_infinity_alone_has_logsumexp_gradient_0(temperature):
    logits = torch.tensor([[-math.inf] * 3, [1.0, 2.0, 0.0]], dtype=torch.float64, requires_grad=True)
    inputs = [logits]
    if temperature == "tensor":
        temperature = torch.tensor([[0.7], [0.7]], dtype=torch.float64, requires_grad=True)
        inputs.append(temperature)
    value = softmax_ext.logsumexp(logits, 1, temperature=temperature)
    first = torch.autograd.grad(value, inputs, grad_outputs=torch.tensor([2.0, 3.0]).double(), create_graph=True)
    for gradient in first:
        assert torch.equal(gradient[0], torch.zeros_like(gradient[0]))
    divisor = 1.0 if temperature is None else 0.7
    torch.testing.assert_close(first[0][1], 3 / divisor * torch.softmax(logits[1] / divisor, 0), **CLOSE)
    second = torch.autograd.grad(sum(gradient.pow(2).sum() for gradient in first), inputs)
    for gradient in second:
        assert torch.equal(gradient[0], torch.zeros_like(gradient[0]))
        assert gradient[1].abs().max() > 1e-3
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(logits.detach(), torch.ones_like(logits))
        t = temperature.detach() if isinstance(temperature, torch.Tensor) else temperature
        tangent = forward_ad.unpack_dual(softmax_ext.logsumexp(dual, 1, temperature=t)).tangent
    torch.testing.assert_close(tangent, torch.tensor([0.0, 1 / divisor], dtype=torch.float64), **CLOSE)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("junk", [math.nan, math.inf, -math.inf])
def test_ignored_rows_have_gradient_0_whatever_they_hold(reduction, junk):
    logits = random_logits((4, 5))
    logits[1] = junk
    logits[3, 2] = junk
    kept, target = [0, 2], torch.tensor([2, -100, 0, -100])

    def derivatives(logits, target, reduction):
        """Loss, gradient, gradient of the squared gradient, tangent."""
        logits = logits.detach().requires_grad_()
        loss = softmax_ext.cross_entropy(logits, target, reduction=reduction)
        (first,) = torch.autograd.grad(loss.sum(), logits, create_graph=True)
        (second,) = torch.autograd.grad(first.pow(2).sum(), logits)
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(logits.detach(), torch.ones_like(logits).cumsum(1))
            tangent = forward_ad.unpack_dual(softmax_ext.cross_entropy(dual, target, reduction=reduction)).tangent
        return loss, first, second, tangent

    loss, first, second, tangent = derivatives(logits, target, reduction)
    expected = derivatives(logits[kept], target[kept], reduction)
    if reduction == "none":
        assert torch.equal(loss[[1, 3]], torch.zeros(2).double())
        assert torch.equal(tangent[[1, 3]], torch.zeros(2).double())
        loss, tangent = loss[kept], tangent[kept]
    for gradient in (first, second):
        assert torch.equal(gradient[[1, 3]], torch.zeros(2, 5).double())
    torch.testing.assert_close((loss, first[kept], second[kept], tangent), expected, **CLOSE)


@pytest.mark.parametrize("function", NORMALIZED)
def test_the_gradient_of_the_temperature_is_finite_where_differences_overflow(function):
    logits = torch.tensor([1e38, -1e38, 3e38, 0.0])
    temperature = torch.tensor(1.0, requires_grad=True)
    probs_like = function(logits, 0, temperature=temperature)
    (gradient,) = torch.autograd.grad(probs_like[2], temperature)
    assert gradient == 0  # the maximum keeps probability 1
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(temperature.detach(), torch.tensor(1.0))
        tangent = forward_ad.unpack_dual(function(logits, 0, temperature=dual)).tangent
    assert tangent[2] == 0
    assert not tangent.isnan().any()


def test_the_tangent_of_a_16_bit_loss_has_the_accuracy_of_float32():
    logits, direction = torch.randn(16, 1000).bfloat16(), torch.randn(16, 1000).bfloat16()
    target = torch.randint(1000, (16,))

    def tangent(loss, logits, direction):
        with forward_ad.dual_level():
            return forward_ad.unpack_dual(loss(forward_ad.make_dual(logits, direction), target)).tangent

    expected = tangent(torch.nn.functional.cross_entropy, logits.double(), direction.double())
    actual = tangent(softmax_ext.cross_entropy, logits, direction)
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-6)
