"""Beside other parts of torch: checkpointing, saved-tensor hooks, autocast, anomaly detection, tensor subclasses."""

import functools
from collections import Counter

import pytest
import torch
from operators import (
    CASES,
    CLOSE,
    DTYPE_CODES,
    OPERATORS,
    cubed_sum,
    name_of,
    random_logits,
    random_temperature,
    value_and_gradients,
)
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal import composite_compliance
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

import softmax_ext

operators = pytest.mark.parametrize("operator", OPERATORS, ids=name_of)
cases = pytest.mark.parametrize("case", CASES, ids=name_of)


# Checkpoints and saved tensors


@operators
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_a_checkpointed_call_has_the_same_gradient(operator, use_reentrant):
    x = random_logits((3, 4)).requires_grad_()
    calls = []

    def function(x):
        calls.append(1)
        return cubed_sum(operator.ours)(x.sin())

    checkpoint(function, x, use_reentrant=use_reentrant).backward()
    assert len(calls) == 2
    torch.testing.assert_close((x.grad,), value_and_gradients(lambda x: operator.reference(x.sin()), [x])[1:], **CLOSE)


@operators
def test_selective_checkpoints_keep_the_primitives_result(operator):
    primitive = operator.primitives[0].overload
    runs = Counter()

    class CountRuns(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            runs[function] += 1
            return function(*args, **(kwargs or {}))

    def policy(context, function, *args, **kwargs):
        return CheckpointPolicy.MUST_SAVE if function == primitive else CheckpointPolicy.PREFER_RECOMPUTE

    x = random_logits((3, 4)).requires_grad_()
    context_fn = functools.partial(create_selective_checkpoint_contexts, policy)
    with CountRuns():
        loss = checkpoint(lambda x: cubed_sum(operator.ours)(x.sin()), x, use_reentrant=False, context_fn=context_fn)
        loss.backward()
    assert runs[primitive] == 1  # what the policy did not keep ran again:
    assert runs[torch.ops.aten.sin.default] == 2
    torch.testing.assert_close((x.grad,), value_and_gradients(lambda x: operator.reference(x.sin()), [x])[1:], **CLOSE)


#: How many tensors a call keeps for backward, without a temperature and with one that takes a gradient.
SAVED_TENSORS = {
    ("softmax", False): 1,  # the probabilities
    ("softmax", True): 3,  # and logits and temperature
    ("log_softmax", False): 1,
    ("log_softmax", True): 3,
    ("logsumexp", False): 1,  # the logits
    ("logsumexp", True): 2,  # and the temperature
    ("cross_entropy", False): 4,  # logits, target, and two numbers per row
    ("masked_softmax", False): 1,  # the probabilities, whose zeros are the mask
    ("masked_softmax", True): 4,  # and logits, mask and temperature
    ("causal_softmax", False): 1,
    ("causal_softmax", True): 3,
    ("entropy", False): 1,
    ("entropy", True): 2,
}


@pytest.mark.parametrize(("name", "with_temperature"), SAVED_TENSORS)
def test_each_saved_tensor_passes_the_hooks_once(name, with_temperature):
    operator = next(operator for operator in OPERATORS if operator.name == name)
    expected = SAVED_TENSORS[name, with_temperature]
    inputs = (random_logits((3, 4)), random_temperature((3, 1)))[: 1 + with_temperature]
    inputs = [tensor.requires_grad_() for tensor in inputs]
    packed, unpacked = [], []

    def pack(tensor):
        packed.append(tensor)
        return tensor.clone()

    def unpack(tensor):
        unpacked.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        value = operator.ours(*inputs)
    actual = torch.autograd.grad(value.sum(), inputs)
    assert (len(packed), len(unpacked)) == (expected, expected)
    fresh = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    torch.testing.assert_close(actual, torch.autograd.grad(operator.reference(*fresh).sum(), fresh), **CLOSE)


@operators
def test_saved_tensors_may_be_kept_on_the_cpu(operator):
    x = random_logits((3, 4)).requires_grad_()
    with torch.autograd.graph.save_on_cpu():
        value = operator.ours(x)
    actual = torch.autograd.grad((value**3).sum(), x)
    torch.testing.assert_close(actual, value_and_gradients(operator.reference, [x])[1:], **CLOSE)


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled", "ignore:.*Error detected in")
@operators
def test_anomaly_detection_names_our_node_and_finds_no_nan_where_there_is_none(operator):
    x = random_logits((3, 4)).requires_grad_()
    with torch.autograd.detect_anomaly(check_nan=True):
        loss = cubed_sum(operator.ours)(x)
        loss.backward()
    torch.testing.assert_close((x.grad,), value_and_gradients(operator.reference, [x])[1:], **CLOSE)

    bad = x.detach().clone()
    bad[0, 0] = float("nan")
    bad.requires_grad_()
    with torch.autograd.detect_anomaly(check_nan=True):
        value = operator.ours(bad)
        node = (
            value.grad_fn.next_functions[0][0] if not value.grad_fn.name().startswith("SoftmaxExt") else value.grad_fn
        )
        with pytest.raises(RuntimeError, match=f"'{node.name()}' returned nan values") as error:
            value.sum().backward()
    assert "SoftmaxExt" in str(error.value)


# Autocast


@operators
def test_autocast_on_the_cpu_leaves_the_dtype(operator):
    x = random_logits((3, 4), torch.bfloat16).requires_grad_()
    plain = operator.ours(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = operator.ours(x)
    assert result.dtype == plain.dtype
    assert torch.equal(result, plain)
    (gradient,) = torch.autograd.grad(result.sum(), x)
    assert gradient.dtype == torch.bfloat16


@pytest.fixture
def cuda_autocast():
    """As ``torch.autocast("cuda")`` makes it, which turns itself off where there is no GPU."""
    was = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_dtype("cuda", torch.float16)
    torch.set_autocast_enabled("cuda", True)
    yield
    torch.set_autocast_enabled("cuda", was[0])
    torch.set_autocast_dtype("cuda", was[1])
    torch.clear_autocast_cache()


FAMILY = [operator for operator in OPERATORS if operator.has_temperature]


@pytest.mark.parametrize("temperature", [None, 0.7, "tensor"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("operator", FAMILY, ids=name_of)
def test_autocast_on_cuda_gives_float32_from_half_as_torch_does(operator, dtype, temperature, cuda_autocast):
    # Fake tensors have a device without one being there: shapes and dtypes are those of real tensors.
    with FakeTensorMode():
        x = torch.empty(3, 4, dtype=dtype, device="cuda", requires_grad=True)
        lane = torch.float64 if dtype == torch.float64 else torch.float32
        tensor = torch.empty(3, 1, dtype=lane, device="cuda", requires_grad=True)
        t = tensor if temperature == "tensor" else temperature
        result = operator.ours(x, t)
        expected = operator.reference(x)
        assert expected.dtype == lane
        assert (result.dtype, result.device, result.shape) == (expected.dtype, expected.device, expected.shape)
        # The engine needs a device, a node does not.
        arguments = operator.primitive_arguments(x, t if temperature == "tensor" else None)
        primitive = operator.primitives[0].overload(*arguments)
        gradients = primitive.grad_fn(torch.empty_like(primitive))
        gradients = gradients if isinstance(gradients, tuple) else (gradients,)
        assert gradients[0].dtype == dtype
        assert temperature != "tensor" or gradients[-1].dtype == t.dtype


@pytest.mark.parametrize("result_dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_autocast_on_cuda_leaves_a_given_dtype_alone(name, result_dtype, cuda_autocast):
    with FakeTensorMode():
        x = torch.empty(3, 4, dtype=torch.float16, device="cuda")
        result = getattr(softmax_ext, name)(x, 1, dtype=result_dtype)
        assert result.dtype == result_dtype


@pytest.mark.parametrize("operator", FAMILY, ids=name_of)
def test_autocast_on_cuda_reaches_the_primitive_under_vmap(operator, cuda_autocast):
    with FakeTensorMode():
        x = torch.empty(2, 3, 4, dtype=torch.bfloat16, device="cuda")
        assert torch.vmap(operator.ours)(x).dtype == torch.float32


@pytest.mark.parametrize("operator", FAMILY, ids=name_of)
def test_autocast_on_cuda_converts_in_the_kernel(operator, cuda_autocast):
    """No conversion of the logits is called: the primitive reads them as they are."""
    called = []

    class Record(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            called.append((function, args))
            return function(*args, **(kwargs or {}))

    with FakeTensorMode():
        x = torch.empty(3, 4, dtype=torch.bfloat16, device="cuda")
        with Record():
            operator.ours(x)
    primitive = operator.primitives[0].overload
    (args,) = [args for function, args in called if function == primitive]
    assert args[0] is x
    if operator.name != "entropy":  # which is float32 for half logits anyway
        assert [argument for argument in args if type(argument) is int][-1] == DTYPE_CODES[torch.float32]
    assert torch.ops.aten._to_copy.default not in [function for function, _ in called]


def test_cross_entropy_under_autocast_on_cuda_is_float32(cuda_autocast):
    with FakeTensorMode():
        x = torch.empty(3, 4, dtype=torch.float16, device="cuda", requires_grad=True)
        loss = softmax_ext.cross_entropy(x, torch.empty(3, dtype=torch.long, device="cuda"))
        assert (loss.dtype, loss.device, loss.shape) == (torch.float32, x.device, ())


# Tensor subclasses: composites and formulas that neither look at data nor write to what may be a subclass


@cases
def test_public_operators_are_composite_compliant(case):
    inputs = case.inputs(torch.float64)
    overload, args, kwargs = case.overload_call(*inputs)
    composite_compliance.check_with_mode(overload, args, kwargs, torch.testing.assert_close)
    composite_compliance.check_all_permutations(overload, args, kwargs, torch.testing.assert_close)


@cases
def test_derivative_formulas_are_composite_compliant(case):
    inputs = case.inputs(torch.float64, requires_grad=True)
    overload, args, kwargs = case.overload_call(*inputs)
    composite_compliance.check_backward_formula(overload, args, kwargs, assert_equal_fn=torch.testing.assert_close)
    composite_compliance.check_forward_ad_formula(overload, args, kwargs, assert_equal_fn=torch.testing.assert_close)
