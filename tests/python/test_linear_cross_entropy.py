"""linear_cross_entropy against the pair that it stands for, in float64 and at 16 bits, and what never is in memory."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from backend import cpu_kernels_only
from torch.library import opcheck
from torch.utils._python_dispatch import TorchDispatchMode

import softmax_ext
from softmax_ext import nn

ROWS, FEATURES, CLASSES = 13, 6, 9
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
OPTIONS = [
    {},
    {"weight": torch.linspace(0.5, 2, CLASSES)},
    {"label_smoothing": 0.1},
    {"temperature": 0.7},
    {"temperature": torch.linspace(0.5, 2, ROWS).unsqueeze(1)},
    {"softcap": 3.0, "z_loss": 0.1},
    {"ignore_index": 3},
    {"label_smoothing": 0.2, "weight": torch.linspace(0.5, 2, CLASSES), "z_loss": 0.1, "temperature": 2.0},
]
options_of = pytest.mark.parametrize("options", OPTIONS, ids=lambda options: " ".join(options) or "none")


def layer(dtype=torch.float64, bias=True, rows=ROWS, ignore_index=-100):
    generator = torch.Generator().manual_seed(0)

    def leaf(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    target = torch.randint(CLASSES, (rows,), generator=generator)
    target[: min(rows, 2)] = torch.tensor([ignore_index, 4])[: min(rows, 2)]
    return leaf(rows, FEATURES), leaf(CLASSES, FEATURES), leaf(CLASSES) if bias else None, target


def pair(input, linear_weight, target, linear_bias=None, **options):
    return softmax_ext.cross_entropy(F.linear(input, linear_weight, linear_bias), target, **options)


def given(*tensors):
    return [tensor for tensor in tensors if tensor is not None]


@options_of
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("gradient", ["forward", "recompute"])
@pytest.mark.parametrize("chunk", [None, 1, 5, 13, 100])
def test_loss_and_gradients_are_those_of_the_pair(options, reduction, gradient, chunk):
    for bias, probabilities in itertools.product((True, False), repeat=2):
        x, w, b, target = layer(bias=bias, ignore_index=options.get("ignore_index", -100))
        if probabilities:
            if "ignore_index" in options:
                continue
            target = torch.softmax(torch.randn(ROWS, CLASSES, dtype=torch.float64), 1)
        loss = softmax_ext.linear_cross_entropy(
            x, w, target, linear_bias=b, reduction=reduction, gradient=gradient, chunk=chunk, **options
        )
        expected = pair(x, w, target, linear_bias=b, reduction=reduction, **options)
        torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
        upstream = torch.randn_like(expected)
        inputs = given(x, w, b)
        ours = torch.autograd.grad(loss, inputs, upstream)
        torch.testing.assert_close(ours, torch.autograd.grad(expected, inputs, upstream), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sums_over_chunks_are_not_rounded_to_16_bits(dtype):
    x, w, _, _ = layer(dtype, bias=False, rows=256)
    target = torch.randint(CLASSES, (256,))
    loss = softmax_ext.linear_cross_entropy(x, w, target, chunk=4)
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    exact = [tensor.detach().double().requires_grad_() for tensor in (x, w)]
    # From logits that were rounded as the layer rounds them: what the chunks add to that is meant.
    logits = F.linear(*exact)
    logits = logits + (F.linear(x, w).double() - logits).detach()
    expected = F.cross_entropy(logits, target)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=1e-6)
    unit = torch.finfo(dtype).eps
    for got, want in zip(torch.autograd.grad(loss, (x, w)), torch.autograd.grad(expected, exact), strict=True):
        assert got.dtype == dtype
        assert (got.double() - want).norm() <= 2 * unit * want.norm()


def test_any_shape_of_rows_and_one_sample():
    x, w, b, target = layer()
    flat = softmax_ext.linear_cross_entropy(x[:12], w, target[:12], linear_bias=b, reduction="none")
    shaped = softmax_ext.linear_cross_entropy(
        x[:12].view(2, 3, 2, FEATURES), w, target[:12].view(2, 3, 2), linear_bias=b, reduction="none"
    )
    assert shaped.shape == (2, 3, 2)
    assert torch.equal(shaped.flatten(), flat)
    one = softmax_ext.linear_cross_entropy(x[4], w, target[4], linear_bias=b, reduction="none")
    assert one.shape == ()
    torch.testing.assert_close(one, flat[4])
    probabilities = torch.softmax(torch.randn(2, 6, CLASSES), -1)
    torch.testing.assert_close(
        softmax_ext.linear_cross_entropy(x[:12].view(2, 6, FEATURES), w, probabilities),
        softmax_ext.linear_cross_entropy(x[:12], w, probabilities.flatten(0, 1)),
    )


def test_classes_with_several_outputs_are_those_of_torch():
    x, w, b = torch.randn(4, FEATURES), torch.randn(CLASSES, 2, 3, FEATURES), torch.randn(CLASSES, 2, 3)
    target = torch.randint(CLASSES, (4, 2, 3))
    logits = F.linear(x, w.reshape(-1, FEATURES), b.flatten()).reshape(4, CLASSES, 2, 3)
    torch.testing.assert_close(
        softmax_ext.linear_cross_entropy(x, w, target, linear_bias=b), F.cross_entropy(logits, target)
    )


@pytest.mark.parametrize("rows", [0, 2])
def test_a_mean_over_no_row_is_nan_or_0_with_gradient_0(rows):
    x, w, b, _ = layer(rows=rows)
    for empty, expected in (("nan", float("nan")), ("zero", 0.0)):
        loss = softmax_ext.linear_cross_entropy(
            x, w, torch.full((rows,), -100), linear_bias=b, empty=empty, gradient="forward"
        )
        torch.testing.assert_close(loss.item(), expected, equal_nan=True)
        for gradient in torch.autograd.grad(loss, (x, w, b)):
            assert gradient.eq(0).all()


def test_logits_never_are_in_memory_as_a_whole():
    rows, features, classes, chunk = 512, 8, 1000, 64
    x, w = torch.randn(rows, features, requires_grad=True), torch.randn(classes, features, requires_grad=True)
    target = torch.randint(classes, (rows,))

    def largest(function):
        with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            function().backward()
        return max(event.cpu_memory_usage for event in profile.events())

    for gradient in ("forward", "recompute"):
        ours = largest(lambda way=gradient: softmax_ext.linear_cross_entropy(x, w, target, chunk=chunk, gradient=way))
        assert ours < 4 * rows * classes / 2
    assert largest(lambda: F.cross_entropy(F.linear(x, w), target)) >= 4 * rows * classes


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_every_derivative(reduction):
    x, w, b, target = layer()
    inputs = [tensor.detach()[:4].clone().requires_grad_() for tensor in (x, w, b)]
    classes = target[:4] % 4
    classes[0] = -100
    temperature = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)

    def loss(x, w, b, temperature):
        return softmax_ext.linear_cross_entropy(
            x,
            w,
            classes,
            linear_bias=b,
            reduction=reduction,
            label_smoothing=0.1,
            z_loss=0.1,
            temperature=temperature,
            chunk=3,
        )

    arguments = (*inputs, temperature)
    torch.autograd.gradcheck(loss, arguments, check_forward_ad=True)
    torch.autograd.gradgradcheck(loss, arguments)


def test_a_frozen_layer_has_no_gradient_made():
    x, w, _, target = layer(bias=False)
    frozen = w.detach()
    loss = softmax_ext.linear_cross_entropy(x, frozen, target)
    (gradient,) = torch.autograd.grad(loss, x)
    torch.testing.assert_close(gradient, torch.autograd.grad(pair(x, frozen, target), x)[0])
    wanted = [True, False, False]
    results = torch.ops.softmax_ext._linear_cross_entropy(x.detach(), frozen, None, target, 5, wanted, 1, -100)
    assert [result.numel() for result in results[3:]] == [x.numel(), 0, 0]


def test_torch_func():
    x, w, _, target = layer(bias=False)
    target = target.clamp(min=0)

    def loss(x, w):
        return softmax_ext.linear_cross_entropy(x, w, target, chunk=4)

    def expected(x, w):
        return F.cross_entropy(F.linear(x, w), target)

    for transform in (torch.func.grad, torch.func.jacrev, torch.func.jacfwd, torch.func.hessian):
        torch.testing.assert_close(transform(loss)(x, w), transform(expected)(x, w))
    batch = torch.randn(3, ROWS, FEATURES, dtype=torch.float64)
    for function in (lambda f: f, torch.func.grad):
        ours = torch.func.vmap(function(loss), (0, None))(batch, w)
        torch.testing.assert_close(ours, torch.func.vmap(function(expected), (0, None))(batch, w))


@pytest.mark.parametrize("retain", [False, True])
def test_a_second_backward_needs_the_graph_retained(retain):
    x, w, _, target = layer(bias=False)
    loss = softmax_ext.linear_cross_entropy(x, w, target)
    first = torch.autograd.grad(loss, (x, w), torch.tensor(2.0, dtype=torch.float64), retain_graph=retain)
    if retain:
        torch.testing.assert_close(
            torch.autograd.grad(loss, (x, w), torch.tensor(4.0, dtype=torch.float64)), tuple(2 * g for g in first)
        )
    else:
        with pytest.raises(RuntimeError, match="backward through the graph a second time"):
            torch.autograd.grad(loss, (x, w))


@options_of
@pytest.mark.parametrize("dynamic", [False, True])
def test_it_compiles_and_exports(options, dynamic):
    torch.compiler.reset()
    x, w, b, target = layer(torch.float32, ignore_index=options.get("ignore_index", -100))

    def function(x, w, b):
        return softmax_ext.linear_cross_entropy(x, w, target, linear_bias=b, **options)

    compiled = torch.compile(function, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    loss, expected = compiled(x, w, b), function(x, w, b)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, (x, w, b)), torch.autograd.grad(expected, (x, w, b)))

    class Model(torch.nn.Module):
        def forward(self, x, w, b):
            return function(x, w, b)

    exported = torch.export.export(Model(), (x.detach(), w.detach(), b.detach()))
    torch.testing.assert_close(exported.module()(x.detach(), w.detach(), b.detach()), expected.detach())


@pytest.mark.parametrize("wanted", [[True, True, True], [False, True, False], [False, False, False]])
def test_opcheck(wanted):
    x, w, b, target = (tensor.detach() for tensor in layer(torch.float32))
    ops = torch.ops.softmax_ext
    options = (torch.ones(CLASSES), torch.full((ROWS, 1), 0.7), 1.0, 0.1, 3.0, 0.1)
    opcheck(ops._linear_cross_entropy.default, (x, w, b, target, 5, wanted, 1, -100, *options))
    _, count, statistics, *_ = ops._linear_cross_entropy(x, w, b, target, 5, [False] * 3, 0, -100, *options)
    grad = torch.rand(ROWS)
    opcheck(
        ops._linear_cross_entropy_backward.default,
        (grad, count, statistics, x, w, b, target, 5, wanted, 0, -100, *options),
    )


def test_autocast_casts_the_layer_as_torch_does():
    x, w, b, target = layer(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = softmax_ext.linear_cross_entropy(x, w, target, linear_bias=b)
        expected = pair(x, w, target, linear_bias=b)
    torch.testing.assert_close(loss, expected)
    for got, want in zip(torch.autograd.grad(loss, (x, w, b)), torch.autograd.grad(expected, (x, w, b)), strict=True):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, want, rtol=2e-2, atol=2e-2)


@options_of
def test_the_module_has_the_functions_options_and_scripts(options):
    if isinstance(options.get("temperature"), torch.Tensor):
        options = {**options, "temperature": 1.5}
    x, _, _, target = layer(torch.float32, ignore_index=options.get("ignore_index", -100))
    module = nn.LinearCrossEntropyLoss(FEATURES, CLASSES, bias=True, chunk=4, **options)
    expected = pair(x, module.linear.weight, target, linear_bias=module.linear.bias, **options)
    for loss in (module, torch.jit.script(module)):
        torch.testing.assert_close(loss(x, target), expected)
    assert sorted(name for name, _ in module.named_parameters()) == ["linear.bias", "linear.weight"]
    several = nn.LinearCrossEntropyLoss(FEATURES, CLASSES, out_features=(2, 3), bias=True)
    classes = torch.randint(CLASSES, (ROWS, 2, 3))
    logits = several.linear(x).reshape(ROWS, CLASSES, 2, 3)
    torch.testing.assert_close(several(x, classes), F.cross_entropy(logits, classes))


def test_the_module_shows_its_options():
    shown = repr(
        nn.LinearCrossEntropyLoss(FEATURES, CLASSES, label_smoothing=0.1, weight=torch.ones(CLASSES), softcap=5)
    )
    for option in ("num_classes=9", "label_smoothing=0.1", "softcap=5.0", "weight="):
        assert option in shown
    assert "z_loss" not in shown


X, W, T = torch.ones(2, 3), torch.ones(4, 3), torch.zeros(2).long()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        ({"input": torch.ones(2, 5)}, RuntimeError, "expected linear_weight of shape [4, 5], got [4, 3]"),
        ({"input": torch.ones(())}, RuntimeError, "expected an input [..., features]"),
        ({"linear_weight": torch.ones(3)}, RuntimeError, "and a linear_weight [classes, ..., features]"),
        ({"linear_weight": W.double()}, RuntimeError, "expected linear_weight of dtype Float, got Double"),
        ({"input": X.int()}, NotImplementedError, "expected input of dtype float64, float32, bfloat16 or float16"),
        ({"linear_bias": torch.ones(3)}, RuntimeError, "expected linear_bias of shape [4], one per class, got [3]"),
        ({"target": T[:1]}, ValueError, "expected a target for each row of the input of shape [2, 3], got shape [1]"),
        ({"target": torch.ones(2, 4, 1)}, RuntimeError, "or probabilities of as many dims as the input"),
        pytest.param(
            {"target": torch.tensor([0, 4])},
            IndexError,
            "expected targets in [0, 4) or ignore_index -100, got 4",
            marks=cpu_kernels_only,  # on CUDA it is an assertion of the device
        ),
        ({"chunk": 0}, ValueError, "expected a chunk > 0, got 0"),
        ({"gradient": "inplace"}, ValueError, "expected gradient 'forward' or 'recompute', got 'inplace'"),
        ({"reduction": "max"}, ValueError, "expected reduction 'none', 'mean' or 'sum', got 'max'"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else None,
)
def test_bad_input(call, error, message):
    with pytest.raises(error) as raised:
        softmax_ext.linear_cross_entropy(**{"input": X, "linear_weight": W, "target": T, **call})
    assert message in str(raised.value)


@pytest.mark.parametrize("way", ["forward", "recompute"])
@pytest.mark.parametrize("retain", [False, True])
def test_float16_takes_the_upstream_gradient_of_a_scaled_loss(retain, way):
    x, w, b, target = layer(torch.float16)
    inputs = (x, w, b)

    def gradients(scale, retain):
        loss = softmax_ext.linear_cross_entropy(x, w, target, linear_bias=b, gradient=way, chunk=4)
        return torch.autograd.grad(loss * scale, inputs, retain_graph=retain)

    # 2^16 is no float16.
    for scaled, plain in zip(gradients(65536.0, retain), gradients(1.0, False), strict=True):
        torch.testing.assert_close(scaled.double() / 65536, plain.double(), rtol=2e-3, atol=1e-6)


def test_float16_sums_over_many_rows_do_not_overflow():
    x = torch.full((512, 2), 150.0, dtype=torch.float16)
    w = torch.zeros(1000, 2, dtype=torch.float16, requires_grad=True)
    for way in ("forward", "recompute"):
        loss = softmax_ext.linear_cross_entropy(x, w, torch.zeros(512).long(), gradient=way)
        (gradient,) = torch.autograd.grad(loss, w)
        torch.testing.assert_close(gradient[0].float(), torch.full((2,), -149.85), rtol=1e-3, atol=0)


def test_autocast_takes_a_layer_of_float32_behind_one_of_16_bits():
    x, w, b, target = layer(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        for input, bias in ((x.bfloat16(), b), (x, b.bfloat16())):
            loss = softmax_ext.linear_cross_entropy(input, w, target, linear_bias=bias)
            torch.testing.assert_close(loss, pair(input, w, target, linear_bias=bias))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_weights_that_are_learned_have_a_gradient(smoothing):
    x, w, _, target = layer(bias=False)
    weight = torch.linspace(0.5, 2, CLASSES, dtype=torch.float64, requires_grad=True)
    options = {"weight": weight, "label_smoothing": smoothing}
    for reduction in ("mean", "sum", "none"):
        loss = softmax_ext.linear_cross_entropy(x, w, target, reduction=reduction, **options).sum()
        expected = pair(x, w, target, reduction=reduction, **options).sum()
        for got, want in zip(
            torch.autograd.grad(loss, (x, w, weight)), torch.autograd.grad(expected, (x, w, weight)), strict=True
        ):
            torch.testing.assert_close(got, want)
    with torch.no_grad():
        assert softmax_ext.linear_cross_entropy(x, w, target, **options).isfinite()


class Wanted(TorchDispatchMode):
    """Which gradients of the layer the forward pass is asked for."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.softmax_ext._linear_cross_entropy.default:
            self.wanted = list(args[5])
        return function(*args, **(kwargs or {}))


def test_the_forward_pass_makes_the_gradients_that_backward_takes_and_no_others():
    x, w, b, target = layer()
    temperature = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    for arguments, wanted in (
        ({}, [True, True, True]),
        ({"gradient": "recompute"}, [False, False, False]),
        ({"reduction": "none"}, [False, False, False]),
        # Made from all logits in backward, and those of the layer with it.
        ({"temperature": temperature}, [False, False, False]),
    ):
        with Wanted() as mode:
            loss = softmax_ext.linear_cross_entropy(x, w, target, linear_bias=b, **arguments).sum()
        assert mode.wanted == wanted
        options = {name: value for name, value in arguments.items() if name != "gradient"}
        expected = pair(x, w, target, linear_bias=b, **options).sum()
        inputs = (x, w, b, temperature) if "temperature" in arguments else (x, w, b)
        torch.testing.assert_close(torch.autograd.grad(loss, inputs), torch.autograd.grad(expected, inputs))
    with Wanted() as mode:
        softmax_ext.linear_cross_entropy(x.detach(), w, target)
    assert mode.wanted == [False, True, False]


@cpu_kernels_only
def test_a_class_out_of_range_is_named_at_its_own_place():
    x, w, _, target = layer(bias=False)
    target[7] = 99
    with pytest.raises(IndexError, match="got 99 at position 7"):
        softmax_ext.linear_cross_entropy(x, w, target, chunk=2)


def test_targets_of_another_shape_are_refused():
    x, w = torch.randn(2, 3, 4), torch.randn(5, 4)
    for target in (torch.zeros(3, 2).long(), torch.zeros(6, 1).long(), torch.rand(3, 2, 5)):
        with pytest.raises(ValueError, match="expected a target for each row of the input"):
            softmax_ext.linear_cross_entropy(x, w, target)
    with pytest.raises(ValueError, match="expected a temperature > 0 with z_loss"):
        softmax_ext.linear_cross_entropy(x, w, torch.zeros(2, 3).long(), temperature=0.0, z_loss=0.1)
    with pytest.raises(RuntimeError, match="expected 4 features in the last dim of linear_weight"):
        softmax_ext.linear_cross_entropy(x[0], torch.randn(5, 2, 3), torch.zeros(3, 2).long())
