"""What traces operators: opcheck, make_fx, torch.compile, compiled autograd, and the Meta kernels under it all."""

import dataclasses

import pytest
import torch
import torch._dynamo.compiled_autograd
import torch._dynamo.exc
from operators import (
    CASES,
    CLOSE,
    DTYPE_CODES,
    FACTS,
    OPERATORS,
    OTHERS,
    PRIMITIVE_CASES,
    WITH_OUTPUT,
    cubed_sum,
    name_of,
    ops,
    random_logits,
    random_temperature,
    value_and_gradients,
)
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.library import opcheck

import softmax_ext

FAMILY = [operator for operator in OPERATORS if operator.has_temperature]
operators = pytest.mark.parametrize("operator", OPERATORS, ids=name_of)
family = pytest.mark.parametrize("operator", FAMILY, ids=name_of)
cases = pytest.mark.parametrize("case", CASES, ids=name_of)
primitive_cases = pytest.mark.parametrize("case", PRIMITIVE_CASES, ids=name_of)
backends = pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])


@pytest.fixture(autouse=True)
def _reset_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(function, backend="aot_eager", **options):
    return torch.compile(function, backend=backend, fullgraph=True, **options)


def one_graph():
    """A second graph for a function that has one raises. (Backends may be called more often: a trace can start over.)"""
    return torch._dynamo.config.patch(error_on_recompile=True)


def to_meta(value):
    return value.to("meta") if isinstance(value, torch.Tensor) else value


def targets_of(graph_module) -> list[str]:
    return [str(node.target) for node in graph_module.graph.nodes if "softmax_ext" in str(node.target)]


# Schemas, Meta kernels and registrations

OPCHECK_UTILITIES = (
    "test_schema",
    "test_autograd_registration",
    "test_faketensor",
    "test_aot_dispatch_static",
    "test_aot_dispatch_dynamic",
)


def check_operator(overload, args, kwargs):
    outcomes = opcheck(overload, args, kwargs, test_utils=OPCHECK_UTILITIES)
    assert set(outcomes) == set(OPCHECK_UTILITIES)
    assert set(outcomes.values()) == {"SUCCESS"}


@pytest.mark.parametrize(
    ("dtype", "requires_grad"), [(torch.float32, False), (torch.float32, True), (torch.bfloat16, True)]
)
@cases
def test_opcheck_passes_for_public_operators(case, dtype, requires_grad):
    check_operator(*case.overload_call(*case.inputs(dtype, requires_grad)))


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@primitive_cases
def test_opcheck_passes_for_primitives(case, dtype, requires_grad):
    check_operator(case.overload, case.call(dtype, requires_grad), {})


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("temperature", [None, 0.7, "tensor"])
def test_opcheck_passes_with_dtype_and_logits_that_are_not_contiguous(name, temperature):
    packet = getattr(ops, name)
    overload = packet.float if temperature == 0.7 else packet.default
    t = torch.tensor([[0.5], [0.7], [1.3]], requires_grad=True) if temperature == "tensor" else temperature
    x = random_logits((5, 3), torch.bfloat16).t().requires_grad_()
    check_operator(overload, (x, 1, torch.float32), {} if t is None else {"temperature": t})


def test_every_operator_of_the_library_is_in_the_table():
    registered = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("softmax_ext::")}
    overloads = {f"softmax_ext::{operator.name}" for operator in OPERATORS}
    overloads |= {case.overload_call(*case.inputs())[0].name() for case in CASES}
    overloads |= {case.overload.name() for case in PRIMITIVE_CASES}
    assert overloads | set(WITH_OUTPUT) | set(OTHERS) == registered - set(FACTS)


@cases
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_meta_kernels_give_what_eager_gives(case, dtype):
    inputs = case.inputs(dtype)
    arguments = {name: to_meta(value) for name, value in case.arguments.items()}
    actual = dataclasses.replace(case, arguments=arguments).ours(*(to_meta(tensor) for tensor in inputs))
    expected = case.ours(*inputs)
    assert actual.device.type == "meta"
    assert (actual.shape, actual.stride(), actual.dtype) == (expected.shape, expected.stride(), expected.dtype)


@primitive_cases
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_meta_kernels_of_primitives_give_what_eager_gives(case, dtype):
    arguments = case.call(dtype)
    actual = case.overload(*(to_meta(argument) for argument in arguments))
    expected = case.overload(*arguments)
    actual, expected = (r if isinstance(r, tuple) else (r,) for r in (actual, expected))
    for meta, real in zip(actual, expected, strict=True):
        assert meta.device.type == "meta"
        assert (meta.shape, meta.stride(), meta.dtype) == (real.shape, real.stride(), real.dtype)


# Traces


@pytest.mark.parametrize("tracing_mode", ["real", "fake", "symbolic"])
@operators
def test_a_trace_of_the_gradient_holds_our_forward_and_backward(operator, tracing_mode):
    def gradient(x):
        return torch.autograd.grad(cubed_sum(operator.ours)(x), x)[0]

    x = random_logits((3, 4)).requires_grad_()
    traced = make_fx(gradient, tracing_mode=tracing_mode)(x)
    assert targets_of(traced) == operator.forward_and_backward
    other = random_logits(
        (5, 4) if tracing_mode == "symbolic" and operator.has_temperature else (3, 4)
    ).requires_grad_()
    torch.testing.assert_close(traced(other), value_and_gradients(operator.reference, [other])[1], **CLOSE)


@operators
def test_a_trace_of_functional_transforms_holds_our_primitives_alone(operator):
    # torch decomposes what has no rule; a decomposition of ours would show as exp or amax.
    traced = make_fx(vmap(grad(cubed_sum(operator.ours))))(random_logits((2, 3, 4)))
    assert targets_of(traced) == operator.forward_and_backward
    assert not {"aten.exp.default", "aten.amax.default"} & {str(node.target) for node in traced.graph.nodes}


@family
def test_a_trace_before_dispatch_holds_the_public_operator(operator):
    traced = make_fx(lambda x: operator.ours(x, 0.7), pre_dispatch=True)(random_logits((3, 4)))
    assert len(targets_of(traced)) == 1


@operators
def test_primitives_are_called_as_often_every_time(operator):
    class Count(torch.utils._python_dispatch.TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.called = []

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.called.append(str(function))
            return function(*args, **(kwargs or {}))

    runs = []
    for _ in range(3):
        with Count() as count:
            value_and_gradients(operator.ours, [random_logits((3, 4))])
        runs.append([name for name in count.called if name.startswith("softmax_ext")])
    assert runs[0] == operator.forward_and_backward
    assert runs[1] == runs[0]
    assert runs[2] == runs[0]


# torch.compile


@backends
@operators
def test_a_compiled_call_has_the_values_and_gradients_of_eager(operator, backend):
    inputs = [random_logits((5, 7)), random_temperature((5, 1))][: 1 + operator.has_temperature]

    def function(x, *temperature):
        return operator.ours(x * 2, *temperature) + 1

    def reference(x, *temperature):
        return operator.reference(x * 2, *temperature) + 1

    actual = value_and_gradients(compiled(function, backend), inputs)
    torch.testing.assert_close(actual, value_and_gradients(reference, inputs), **CLOSE)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@one_graph()
def test_sizes_that_vary_compile_to_one_graph(backend):
    """All operators in one function: each compilation by inductor takes seconds."""

    def function(x, temperature, target, softmax, log_softmax, logsumexp, cross_entropy):
        probs = softmax(x * 2, 1, temperature)
        log_probs = log_softmax(x, 0, temperature)
        return probs.sin() + log_probs + logsumexp(x, 1, temperature)[:, None] + cross_entropy(x, target)

    def ours(x, temperature, target):
        return function(
            x,
            temperature,
            target,
            lambda x, dim, t: softmax_ext.softmax(x, dim, temperature=t),
            lambda x, dim, t: softmax_ext.log_softmax(x, dim, temperature=t),
            lambda x, dim, t: softmax_ext.logsumexp(x, dim, temperature=t),
            softmax_ext.cross_entropy,
        )

    def reference(x, temperature, target):
        return function(
            x,
            temperature,
            target,
            lambda x, dim, t: torch.softmax(x / t, dim),
            lambda x, dim, t: torch.log_softmax(x / t, dim),
            lambda x, dim, t: torch.logsumexp(x / t, dim),
            torch.nn.functional.cross_entropy,
        )

    dynamic = compiled(ours, backend, dynamic=True)
    for rows, columns in ((4, 6), (7, 5), (12, 33)):
        inputs = [random_logits((rows, columns)), random_temperature(())]
        target = torch.arange(rows) % columns
        actual = value_and_gradients(lambda x, t: dynamic(x, t, target), inputs)  # noqa: B023
        expected = value_and_gradients(lambda x, t: reference(x, t, target), inputs)  # noqa: B023
        torch.testing.assert_close(actual, expected, **CLOSE)


@operators
@one_graph()
def test_each_operator_compiles_to_one_graph_over_sizes(operator):
    with_target = operator.name == "cross_entropy"

    def function(x, other):
        return softmax_ext.cross_entropy(x, other, reduction="none") if with_target else operator.ours(x, other)

    def reference(x, other):
        if with_target:
            return torch.nn.functional.cross_entropy(x, other, reduction="none")
        return operator.reference(x, other)

    dynamic = compiled(function, dynamic=True)
    for rows, columns in ((4, 6), (7, 5), (12, 33)):
        x = random_logits((rows, columns))
        other = torch.arange(rows) % columns if with_target else random_temperature((rows, 1))
        actual = value_and_gradients(lambda x: dynamic(x, other), [x])  # noqa: B023
        expected = value_and_gradients(lambda x: reference(x, other), [x])  # noqa: B023
        torch.testing.assert_close(actual, expected, **CLOSE)


@one_graph()
def test_temperatures_that_are_numbers_compile_to_a_graph_each():
    """As every number does in torch; and proof that the tests beside this one can fail."""
    function = compiled(lambda x, t: softmax_ext.softmax(x, 1, temperature=t))
    x = random_logits((3, 4))
    torch.testing.assert_close(function(x, 0.5), torch.softmax(x / 0.5, 1), **CLOSE)
    with pytest.raises(torch._dynamo.exc.RecompileError):
        function(x, 0.7)


@one_graph()
def test_temperatures_that_are_tensors_compile_to_one_graph_over_values():
    function = compiled(lambda x, t: softmax_ext.softmax(x, 1, temperature=t))
    x = random_logits((3, 4))
    for value in (0.5, 0.7, 1.3):
        t = torch.tensor(value, dtype=torch.float64)
        torch.testing.assert_close(function(x, t), torch.softmax(x / value, 1), **CLOSE)


@operators
def test_a_number_of_rows_known_from_the_data_alone_compiles(operator):
    with_target = operator.name == "cross_entropy"

    def of(function):
        """Of the rows that a mask keeps."""
        if with_target:
            return lambda x, mask, target: function(x[mask], target[mask], reduction="none")
        return lambda x, mask, target: function(x[mask])

    functions = (operator.function, operator.torch_function) if with_target else (operator.ours, operator.reference)
    ours, reference = (of(function) for function in functions)
    x, target = random_logits((6, 4)), torch.tensor([0, 3, 2, 1, -100, 0])
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        function = compiled(ours)
        for mask in ([1, 0, 1, 1, 0, 0], [0, 0, 0, 1, 1, 0], [1, 1, 1, 1, 1, 1]):
            mask = torch.tensor(mask, dtype=torch.bool)
            actual = value_and_gradients(lambda x: function(x, mask, target), [x])  # noqa: B023
            expected = value_and_gradients(lambda x: reference(x, mask, target), [x])  # noqa: B023
            torch.testing.assert_close(actual, expected, **CLOSE)


@operators
@one_graph()
def test_unbacked_sizes_compile_to_one_graph(operator):
    with_target = operator.name == "cross_entropy"

    def function(x, other):
        if with_target:
            return softmax_ext.cross_entropy(x, other, reduction="none")
        return operator.ours(x, other)

    call = compiled(function)
    for rows in (6, 3, 1):  # 1 as well: no graph is made for sizes of 0 and 1 alone
        x = random_logits((rows, 4))
        other = torch.arange(rows) % 4 if with_target else random_temperature(())
        torch._dynamo.decorators.mark_unbacked(x, 0)
        if with_target:
            torch._dynamo.decorators.mark_unbacked(other, 0)
        torch.testing.assert_close(call(x, other), function(x, other), **CLOSE)


@family
def test_a_temperature_per_unbacked_row_compiles(operator):
    def function(x, mask, temperature):
        return operator.ours(x[mask], temperature[mask])

    x, temperature = random_logits((6, 4)), random_temperature((6, 1))
    mask = torch.tensor([1, 0, 1, 1, 0, 0], dtype=torch.bool)
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        actual = compiled(function)(x, mask, temperature)
    torch.testing.assert_close(actual, operator.reference(x[mask], temperature[mask]), **CLOSE)


INSIDE = {
    "grad": lambda f: grad(cubed_sum(f)),
    "vmap": lambda f: vmap(f),
    "vmap of grad": lambda f: vmap(grad(cubed_sum(f))),
    "jacrev": lambda f: jacrev(f),
    "jacfwd": lambda f: jacfwd(f),
    "hessian": lambda f: hessian(cubed_sum(f)),
    "jvp": lambda f: lambda x: jvp(f, (x,), (x.cos(),))[1],
}


@pytest.mark.parametrize("transform", INSIDE)
@operators
def test_functional_transforms_compile(operator, transform):
    x, apply = random_logits((3, 4)), INSIDE[transform]
    actual = compiled(apply(operator.ours))(x)
    torch.testing.assert_close(actual, apply(operator.reference)(x), **CLOSE)


def test_half_precision_compiles_to_what_eager_gives():
    x, t = random_logits((5, 7), torch.bfloat16), random_temperature((), torch.float32)
    for operator in FAMILY:
        function = compiled(operator.ours)
        for actual, expected in zip(
            value_and_gradients(function, [x, t]), value_and_gradients(operator.ours, [x, t]), strict=True
        ):
            assert actual.dtype == expected.dtype
            assert torch.equal(actual, expected)


@pytest.mark.parametrize("module", ["Softmax", "LogSoftmax"])
def test_a_module_with_a_learned_temperature_compiles(module):
    temperature = torch.nn.Parameter(torch.tensor(0.7, dtype=torch.float64))
    learned = getattr(softmax_ext.nn, module)(1, temperature=temperature)
    x, weights = random_logits((3, 4)), random_logits((3, 4))
    (actual,) = torch.autograd.grad((compiled(learned)(x) * weights).sum(), temperature)
    reference = getattr(torch.nn, module)(1)
    (expected,) = torch.autograd.grad((reference(x / temperature) * weights).sum(), temperature)
    torch.testing.assert_close(actual, expected, **CLOSE)


# Compiled autograd


def compiled_backward(backend="aot_eager"):
    return torch._dynamo.compiled_autograd._enable(torch.compile(backend=backend, fullgraph=True))


@operators
def test_compiled_autograd_has_the_gradients_of_eager(operator):
    """Over sizes, as the second size makes the first one's graph dynamic."""
    for rows in (3, 5, 6):
        inputs = [random_logits((rows, 4)), random_temperature((rows, 1))][: 1 + operator.has_temperature]
        with compiled_backward():
            actual = value_and_gradients(operator.ours, inputs)
        torch.testing.assert_close(actual, value_and_gradients(operator.reference, inputs), **CLOSE)


@operators
def test_compiled_autograd_captures_our_backward(operator):
    graphs = []

    def capture(graph_module, _):
        graphs.append(graph_module)
        return graph_module

    x = random_logits((3, 4)).requires_grad_()
    loss = cubed_sum(operator.ours)(x)
    with compiled_backward(capture):
        loss.backward()
    assert len(graphs) == 1
    assert "SoftmaxExt" in graphs[0].print_readable(print_output=False)


@operators
def test_compiled_autograd_goes_backward_twice(operator):
    def second(function, compiled_too):
        inputs = [random_logits((3, 4)), random_temperature((3, 1))][: 1 + operator.has_temperature]
        inputs = [tensor.requires_grad_() for tensor in inputs]
        first = torch.autograd.grad(cubed_sum(function)(*inputs), inputs, create_graph=True)
        total = sum(gradient.pow(2).sum() for gradient in first)
        if not compiled_too:
            return torch.autograd.grad(total, inputs)
        with compiled_backward():
            return torch.autograd.grad(total, inputs)

    torch.manual_seed(1)
    actual = second(operator.ours, compiled_too=True)
    torch.manual_seed(1)
    torch.testing.assert_close(actual, second(operator.reference, compiled_too=False), **CLOSE)


@operators
def test_compiled_autograd_runs_the_hooks_of_saved_tensors(operator):
    x = random_logits((3, 4)).requires_grad_()
    # Packed tensors are doubled: without unpacking, the gradient would be another.
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: t * 2 if t.is_floating_point() else t, lambda t: t / 2 if t.is_floating_point() else t
    ):
        loss = cubed_sum(operator.ours)(x)
    with compiled_backward():
        loss.backward()
    torch.testing.assert_close(x.grad, value_and_gradients(operator.reference, [x])[1], **CLOSE)


def test_dtype_codes_are_those_of_torch():
    for dtype, code in DTYPE_CODES.items():
        assert ops._softmax(torch.zeros(2), None, 0, 1.0, code).dtype == dtype
