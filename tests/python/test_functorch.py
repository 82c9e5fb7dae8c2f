"""torch.func: every transform and every nesting gives what it gives for torch's functions in float64.

vmap's fallback, a loop over the batch, is off: each primitive must have a rule of its own.
"""

import pytest
import torch
from operators import CASES, CLOSE, OPERATORS, cubed_sum, flat, name_of, ops, random_logits, random_temperature
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, linearize, vjp, vmap

import softmax_ext

FAMILY = [operator for operator in OPERATORS if operator.has_temperature]
operators = pytest.mark.parametrize("operator", OPERATORS, ids=name_of)
family = pytest.mark.parametrize("operator", FAMILY, ids=name_of)


@pytest.fixture(autouse=True)
def _no_vmap_fallback():
    was_enabled = torch._C._functorch._is_vmap_fallback_enabled()
    torch._C._functorch._set_vmap_fallback_enabled(False)
    yield
    torch._C._functorch._set_vmap_fallback_enabled(was_enabled)


# Derivatives. `f` takes one vector: logits and temperature end to end, so mixed derivatives are compared too.

SCALAR_TRANSFORMS = {
    "grad": lambda f, v: grad(f)(v),
    "grad of grad": lambda f, v: grad(lambda x: grad(f)(x).pow(2).sum())(v),
    "hessian": lambda f, v: hessian(f)(v),
    "jacrev of jacrev of jacrev": lambda f, v: jacrev(jacrev(jacrev(f)))(v),
    "jacfwd of hessian": lambda f, v: jacfwd(hessian(f))(v),
    "jacfwd of jacfwd of jacfwd": lambda f, v: jacfwd(jacfwd(jacfwd(f)))(v),
    "grad of jvp": lambda f, v: grad(lambda x: jvp(f, (x,), (x.sin(),))[1])(v),
    "jvp of grad": lambda f, v: jvp(grad(f), (v,), (v.cos(),))[1],
}
TRANSFORMS = {
    "vjp": lambda f, v: vjp(f, v)[1](torch.ones_like(f(v)).cumsum(-1) if f(v).dim() else torch.ones_like(f(v)))[0],
    "jvp": lambda f, v: jvp(f, (v,), (v.cos(),)),
    "jacrev": lambda f, v: jacrev(f)(v),
    "jacrev in chunks": lambda f, v: jacrev(f, chunk_size=2)(v),
    "jacfwd": lambda f, v: jacfwd(f)(v),
    "jacrev of jacrev": lambda f, v: jacrev(jacrev(f))(v),
    "jacfwd of jacfwd": lambda f, v: jacfwd(jacfwd(f))(v),
    "jacrev of jacfwd": lambda f, v: jacrev(jacfwd(f))(v),
    "jacfwd of jacrev": lambda f, v: jacfwd(jacrev(f))(v),
    "jvp of jvp": lambda f, v: jvp(lambda x: jvp(f, (x,), (x.sin(),))[1], (v,), (v.cos(),)),
    "linearize": lambda f, v: linearize(f, v)[1](v.cos()),
}
#: One of each kind, so that third derivatives take little time.
DERIVATIVE_CASES = [
    case
    for case in CASES
    if case.name in ("rows", "temperature per row", "losses with an ignored row", "mean of images")
]


@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node")  # linearize, of any function
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("case", DERIVATIVE_CASES, ids=name_of)
def test_transforms_agree_with_torchs(case, transform):
    vector, apply = flat(case.inputs()), TRANSFORMS[transform]
    actual = apply(case.of_flat(case.ours), vector)
    torch.testing.assert_close(actual, apply(case.of_flat(case.reference), vector), **CLOSE)


@pytest.mark.parametrize("transform", SCALAR_TRANSFORMS)
@pytest.mark.parametrize("case", DERIVATIVE_CASES, ids=name_of)
def test_transforms_of_scalar_functions_agree_with_torchs(case, transform):
    vector, apply = flat(case.inputs()), SCALAR_TRANSFORMS[transform]
    actual = apply(cubed_sum(case.of_flat(case.ours)), vector)
    torch.testing.assert_close(actual, apply(cubed_sum(case.of_flat(case.reference)), vector), **CLOSE)


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_gradients_and_hessians_of_every_case_agree_with_torchs(case):
    inputs = case.inputs()
    argnums = tuple(range(len(inputs)))
    for transform in (grad, hessian):
        actual = transform(cubed_sum(case.ours), argnums=argnums)(*inputs)
        expected = transform(cubed_sum(case.reference), argnums=argnums)(*inputs)
        torch.testing.assert_close(actual, expected, **CLOSE)


# vmap. `f` works along the last dim of what it is given; v is [2, 3, 4].

NESTINGS = {
    "in_dims 0": lambda f, v: vmap(f)(v),
    "in_dims 1, out_dims 1": lambda f, v: vmap(f, in_dims=1, out_dims=1 if f(v[0]).dim() else 0)(v),
    "in_dims -1": lambda f, v: vmap(f, in_dims=-1)(v),
    "vmap of vmap": lambda f, v: vmap(vmap(f))(v),
    "vmap of vmap, in_dims 1": lambda f, v: vmap(vmap(f, in_dims=1), in_dims=1)(v),
    "vmap of vmap, in_dims -1 and 0": lambda f, v: vmap(vmap(f, in_dims=-1), in_dims=0)(v),
    "batch 0": lambda f, v: vmap(f)(v[:0]),
    "batch 0 inside": lambda f, v: vmap(vmap(f))(v[:, :0]),
    "chunks": lambda f, v: vmap(f, chunk_size=1)(v),
    "chunks of unequal size": lambda f, v: vmap(f, in_dims=1, chunk_size=2)(v),
    "vmap of grad": lambda f, v: vmap(grad(cubed_sum(f)))(v),
    "grad of vmap": lambda f, v: grad(cubed_sum(vmap(f)))(v),
    "vmap of grad of vmap": lambda f, v: vmap(grad(cubed_sum(vmap(f))))(v),
    "vmap of vmap of grad": lambda f, v: vmap(vmap(grad(cubed_sum(f))))(v),
    "vmap of hessian": lambda f, v: vmap(hessian(cubed_sum(f)))(v),
    "hessian of vmap": lambda f, v: hessian(cubed_sum(vmap(f)))(v),
    "vmap of jvp": lambda f, v: vmap(lambda x: jvp(f, (x,), (x.cos(),)))(v),
    "jvp of vmap": lambda f, v: jvp(vmap(f), (v,), (v.cos(),)),
    "vmap of jacrev": lambda f, v: vmap(jacrev(f))(v),
    "vmap of jacfwd, in_dims 1": lambda f, v: vmap(jacfwd(f), in_dims=1)(v),
    "vmap of vjp": lambda f, v: vmap(lambda x: vjp(f, x)[1](f(x).cos())[0])(v),
    "unbatched logits inside": lambda f, v: vmap(lambda x: vmap(lambda z: f(x) * z)(v[0, 0]))(v),
}


@pytest.mark.parametrize("nesting", NESTINGS)
@operators
def test_vmap_nestings_agree_with_torchs(operator, nesting):
    v, apply = random_logits((2, 3, 4)), NESTINGS[nesting]
    torch.testing.assert_close(apply(operator.ours, v), apply(operator.reference, v), **CLOSE)


@pytest.mark.parametrize("operator", [o for o in OPERATORS if o.takes_scalars], ids=name_of)
def test_vmap_down_to_scalars_agrees_with_torchs(operator):
    v = random_logits((2, 3, 4))
    for nest in (
        lambda f: vmap(vmap(vmap(f))),
        lambda f: vmap(vmap(vmap(grad(f), in_dims=-1), in_dims=1)),
        lambda f: vmap(vmap(vmap(grad(grad(cubed_sum(f)))))),
        lambda f: vmap(vmap(vmap(lambda x: jvp(f, (x,), (x,))[1]))),
    ):
        torch.testing.assert_close(nest(operator.ours)(v), nest(operator.reference)(v), **CLOSE)


@pytest.mark.parametrize("function", [softmax_ext.softmax, softmax_ext.log_softmax, softmax_ext.logsumexp])
@pytest.mark.parametrize("dim", [0, 1, -1, -2])
@pytest.mark.parametrize("in_dim", [0, 1, 2])
def test_vmap_leaves_the_dim_to_the_sample(function, dim, in_dim):
    v = random_logits((2, 3, 4))
    torch_function = getattr(torch, function.__name__)
    for wrap in (lambda f: f, lambda f: grad(cubed_sum(f))):
        actual = vmap(wrap(lambda x: function(x, dim)), in_dims=in_dim)(v)
        expected = vmap(wrap(lambda x: torch_function(x, dim)), in_dims=in_dim)(v)
        torch.testing.assert_close(actual, expected, **CLOSE)


# Batched and unbatched arguments mixed

#: Logits, temperature, their in_dims; the function works along the last dim.
MIXED = {
    "both": ((5, 2, 3), (5, 2, 1), (0, 0)),
    "both, other dims": ((2, 5, 3), (2, 1, 5), (1, -1)),
    "logits": ((5, 2, 3), (2, 1), (0, None)),
    "logits, one temperature": ((2, 3, 5), (), (-1, None)),
    "temperature": ((2, 3), (5, 2, 1), (None, 0)),
    "temperature, last dim": ((2, 3), (2, 1, 5), (None, 2)),
    "temperature per sample": ((5, 2, 3), (5,), (0, 0)),
    "temperature per sample, logits shared": ((2, 3), (5,), (None, 0)),
    "temperature of lower rank": ((4, 2, 3, 5), (5, 2, 1), (3, 0)),
    "scalars": ((5,), (5,), (0, 0)),
    "scalars, temperature shared": ((5,), (), (0, None)),
    "scalars, logits shared": ((), (5,), (None, 0)),
    "no sample": ((0, 2, 3), (2, 1), (0, None)),
}


@pytest.mark.parametrize("mix", MIXED)
@family
def test_vmap_over_logits_and_temperature_agrees_with_torchs(operator, mix):
    shape, temperature_shape, in_dims = MIXED[mix]
    inputs = (random_logits(shape), random_temperature(temperature_shape))
    for wrap in (
        lambda f: f,
        lambda f: grad(cubed_sum(f), argnums=(0, 1)),
        lambda f: hessian(cubed_sum(f), argnums=(0, 1)),
        lambda f: lambda *x: jvp(f, x, tuple(tensor.cos() for tensor in x)),
        lambda f: lambda *x: jvp(grad(cubed_sum(f), argnums=(0, 1)), x, tuple(tensor.cos() for tensor in x)),
    ):
        actual = vmap(wrap(operator.ours), in_dims=in_dims)(*inputs)
        expected = vmap(wrap(operator.reference), in_dims=in_dims)(*inputs)
        torch.testing.assert_close(actual, expected, **CLOSE)


@family
def test_temperatures_batched_inside_logits_batched_outside(operator):
    x, t = random_logits((5, 2, 3)), random_temperature((4,))

    def nested(function):
        return vmap(lambda x: vmap(lambda t: function(x, t))(t))(x)

    for wrap in (lambda f: f, lambda f: grad(cubed_sum(f), argnums=(0, 1))):
        actual, expected = nested(wrap(operator.ours)), nested(wrap(operator.reference))
        torch.testing.assert_close(actual, expected, **CLOSE)


@pytest.mark.parametrize(
    ("in_dims", "shape", "target_shape"),
    [
        ((0, 0), (4, 3, 5), (4, 3)),
        ((1, 1), (3, 4, 5), (3, 4)),
        ((-1, 0), (3, 5, 4), (4, 3)),
        ((None, 0), (3, 5), (4, 3)),
        ((0, None), (4, 3, 5), (3,)),
        ((0, 0), (4, 5), (4,)),
        ((None, 0), (5,), (4,)),
        ((2, None), (3, 5, 4, 2), (3, 2)),
    ],
)
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_vmap_over_logits_and_target_agrees_with_one_sample_at_a_time(in_dims, shape, target_shape, reduction):
    # torch's own cross_entropy cannot be mapped over the target with every reduction, so the samples are taken singly.
    x, target = random_logits(shape), torch.arange(torch.Size(target_shape).numel()).reshape(target_shape) % 5
    target.view(-1)[1:2] = -100

    def function(x, target):
        return softmax_ext.cross_entropy(x, target, reduction=reduction)

    def single(x, target):
        return torch.nn.functional.cross_entropy(x, target, reduction=reduction)

    size = x.shape[in_dims[0]] if in_dims[0] is not None else target.shape[in_dims[1]]
    samples = [
        tuple(a if d is None else a.select(d, i) for a, d in zip((x, target), in_dims, strict=True))
        for i in range(size)
    ]
    for wrap in (
        lambda f: f,
        lambda f: grad(cubed_sum(f)),
        lambda f: hessian(cubed_sum(f)),
        lambda f: lambda x, target: jvp(lambda x: f(x, target), (x,), (x.cos(),))[1],
    ):
        actual = vmap(wrap(function), in_dims=in_dims)(x, target)
        # On the CPU: on CUDA torch's mean over ignored targets alone has the derivative 0 in forward mode, not NaN.
        expected = torch.stack([wrap(single)(*(tensor.cpu() for tensor in sample)) for sample in samples])
        torch.testing.assert_close(actual.cpu(), expected, equal_nan=True, **CLOSE)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_vmap_over_no_batch_of_logits_gives_no_loss_and_no_gradient(reduction):
    target = torch.tensor([0, -100, 2])

    def function(x):
        return softmax_ext.cross_entropy(x, target, reduction=reduction)

    x = random_logits((0, 3, 5))
    loss, (gradient,) = vmap(lambda x: (function(x), vjp(function, x)[1](torch.ones_like(function(x)))))(x)
    assert loss.shape == ((0, 3) if reduction == "none" else (0,))
    assert gradient.shape == x.shape


BACKWARD_IN_DIMS = [(0, None), (None, 0), (0, 0), (1, 0), (-1, 1)]


@pytest.mark.parametrize("in_dims", BACKWARD_IN_DIMS)
@pytest.mark.parametrize("temperature_in_dim", [None, 0, 1])
@pytest.mark.parametrize(
    "name", ["_softmax_backward", "_log_softmax_backward", "_logsumexp_backward", "_entropy_backward"]
)
def test_backward_primitives_take_any_mix_of_batched_arguments(name, in_dims, temperature_in_dim):
    samples = 4
    of_rows = name in ("_logsumexp_backward", "_entropy_backward")
    row = () if of_rows else (3,)
    shapes = ((2, *(row or (1,))), (2, 3), (2, 1))
    all_dims = (*in_dims, temperature_in_dim)

    def batched(shape, in_dim):
        if in_dim is None:
            return shape
        at = in_dim % (len(shape) + 1)
        return (*shape[:at], samples, *shape[at:])

    tensors = [random_temperature(batched(shape, d)) for shape, d in zip(shapes, all_dims, strict=True)]
    float64 = () if of_rows else (7,)

    def call(grad, other, temperature):
        return getattr(ops, name)(grad, other, temperature, 1, 1.0, *float64)

    actual = vmap(call, in_dims=all_dims)(*tensors)
    expected = [
        call(*(tensor if d is None else tensor.select(d, i) for tensor, d in zip(tensors, all_dims, strict=True)))
        for i in range(samples)
    ]
    torch.testing.assert_close(actual, torch.stack(expected), **CLOSE)


@pytest.mark.parametrize("in_dims", [(0, None), (None, 0), (1, 0), (-1, -1)])
def test_vmap_over_logits_and_mask_agrees_with_one_sample_at_a_time(in_dims):
    samples = 4
    x, mask = (
        torch.movedim(tensor, 0, d) if d is not None else tensor[0]
        for tensor, d in zip((random_logits((samples, 3, 5)), torch.rand(samples, 3, 5) < 0.6), in_dims, strict=True)
    )

    def function(x, mask):
        return softmax_ext.masked_softmax(x, mask, 1, empty="zero")

    actual = vmap(function, in_dims=in_dims)(x, mask)
    for i in range(samples):
        sample = (tensor if d is None else tensor.select(d, i) for tensor, d in zip((x, mask), in_dims, strict=True))
        torch.testing.assert_close(actual[i], function(*sample), **CLOSE)


@pytest.mark.parametrize("batched", range(1, 8))
def test_cross_entropy_backward_takes_any_mix_of_batched_arguments(batched):
    """Bit 0: grad, bit 1: logits with their statistics, bit 2: target."""
    samples, rows, classes = 4, 3, 5
    grad_dim, logits_dim, target_dim = (0 if batched >> bit & 1 else None for bit in range(3))
    x = random_logits((samples, rows, classes))
    target = torch.arange(samples * rows).reshape(samples, rows) % classes
    upstream = random_logits((samples, rows))
    of_samples = [ops._cross_entropy(sample, target[0], 1, 0, 0, -100)[1:3] for sample in x]
    counts, statistics = (torch.stack(values) for values in zip(*of_samples, strict=True))
    in_dims = (grad_dim, logits_dim, target_dim, logits_dim, logits_dim)
    full = (upstream, x, target, counts, statistics)
    tensors = [tensor if d == 0 else tensor[0] for tensor, d in zip(full, in_dims, strict=True)]

    def call(*tensors):
        return ops._cross_entropy_backward(*tensors, 1, 0, -100)

    actual = vmap(call, in_dims=in_dims)(*tensors)
    for i in range(samples):
        upstream_i, x_i, target_i = (
            tensor[i] if d == 0 else tensor for tensor, d in zip(tensors[:3], in_dims[:3], strict=True)
        )
        expected = upstream_i[:, None] * (torch.softmax(x_i, 1) - torch.nn.functional.one_hot(target_i, classes))
        torch.testing.assert_close(actual[i], expected, **CLOSE)


@operators
def test_batched_gradients_agree_with_torchs(operator):
    x = random_logits((3, 4)).requires_grad_()
    upstream = random_logits((5, *operator.reference(x).shape))
    actual, expected = (
        torch.autograd.grad(f(x), x, upstream, is_grads_batched=True) for f in (operator.ours, operator.reference)
    )
    torch.testing.assert_close(actual, expected, **CLOSE)


@operators
def test_per_sample_gradients_of_a_module_agree_with_torchs(operator):
    linear = torch.nn.Linear(4, 3).double()
    parameters, x = dict(linear.named_parameters()), random_logits((6, 4))

    def loss(function):
        return lambda parameters, x: function(functional_call(linear, parameters, (x,))).pow(2).sum()

    actual, expected = (
        vmap(grad(loss(f)), in_dims=(None, 0))(parameters, x) for f in (operator.ours, operator.reference)
    )
    assert actual["weight"].shape == (6, 3, 4)
    torch.testing.assert_close(actual, expected, **CLOSE)


@operators
def test_vmap_gives_each_sample_bitwise_its_own_result(operator):
    v = random_logits((2, 3, 4), torch.bfloat16)
    actual = vmap(operator.ours)(v)
    expected = torch.stack([operator.ours(sample) for sample in v])
    assert actual.dtype == expected.dtype
    assert torch.equal(actual, expected)
