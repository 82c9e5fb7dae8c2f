"""Bad input: an error of torch's class that names what was wanted and what came."""

import re

import pytest
import torch
import torch.nn.functional as F
from backend import cpu_kernels_only

import softmax_ext
from softmax_ext import nn

X = torch.randn(2, 3)
T = torch.tensor([0, 1])
COUNT = torch.tensor(2.0, dtype=torch.float64)


def raises(error, message, call):
    with pytest.raises(error, match=re.escape(message)) as caught:
        call()
    assert type(caught.value) is error


normalizations = pytest.mark.parametrize("name", ["softmax", "log_softmax"])
all_three = pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp"])


@all_three
@pytest.mark.parametrize("dim", [-3, 2, 7])
def test_a_dim_out_of_range(name, dim):
    message = f"{name}: expected dim in [-2, 1] for a 2-d tensor, got {dim}"
    raises(IndexError, message, lambda: getattr(softmax_ext, name)(X, dim))
    raises(IndexError, message, lambda: getattr(torch.ops.softmax_ext, name)(X.to("meta"), dim))
    with pytest.raises(IndexError):
        getattr(torch, name)(X, dim)


@all_three
@pytest.mark.parametrize("dim", [-2, 1])
def test_a_dim_out_of_range_of_the_samples_under_vmap(name, dim):
    message = f"{name}: expected dim in [-1, 0] for a 1-d tensor, got {dim}"
    raises(IndexError, message, lambda: torch.vmap(lambda x: getattr(softmax_ext, name)(x, dim))(X))


@all_three
def test_a_dim_of_a_zero_dimensional_tensor(name):
    message = f"{name}: expected dim in [-1, 0] for a 0-d tensor, got 1"
    raises(IndexError, message, lambda: getattr(softmax_ext, name)(torch.tensor(1.0), 1))


def test_a_dim_named_twice():
    raises(
        RuntimeError,
        "logsumexp: expected each dim once, got dim 1 more than once in [1, -1]",
        lambda: softmax_ext.logsumexp(X, (1, -1)),
    )


@normalizations
@pytest.mark.parametrize(("dtype", "word"), [(torch.int64, "Long"), (torch.bool, "Bool"), (torch.complex64, "Complex")])
def test_an_input_dtype_that_has_no_softmax(name, dtype, word):
    message = f"{name}: expected input of dtype float64, float32, bfloat16 or float16, got {word}"
    raises(NotImplementedError, message, lambda: getattr(softmax_ext, name)(X.to(dtype), 1))
    with pytest.raises(NotImplementedError):
        getattr(torch, name)(X.to(dtype), 1)


@normalizations
def test_integers_are_told_to_use_dtype(name):
    raises(
        NotImplementedError,
        f"{name}: expected input of dtype float64, float32, bfloat16 or float16, got Long; give dtype= to convert it",
        lambda: getattr(softmax_ext, name)(X.long(), 1),
    )


@normalizations
def test_a_result_dtype_that_has_no_softmax(name):
    message = f"{name}: expected dtype float64, float32, bfloat16 or float16, got Long"
    raises(NotImplementedError, message, lambda: getattr(softmax_ext, name)(X, 1, torch.int64))


@normalizations
@pytest.mark.parametrize("temperature", [-1, -0.5, float("nan")])
def test_a_temperature_that_is_none(name, temperature):
    message = f"{name}: expected a temperature >= 0, got {temperature:g}"
    raises(ValueError, message, lambda: getattr(softmax_ext, name)(X, 1, temperature=temperature))


@pytest.mark.parametrize("temperature", [0, -1.5])
def test_logsumexp_needs_a_temperature_above_zero(temperature):
    message = f"logsumexp: expected a temperature > 0, got {temperature}"
    raises(ValueError, message, lambda: softmax_ext.logsumexp(X, 1, temperature=temperature))


@all_three
@pytest.mark.parametrize("shape", [(3,), (2, 3), (1, 3), (4, 1), (1, 2, 1)])
def test_a_temperature_that_does_not_broadcast(name, shape):
    message = f"{name}: expected a temperature that broadcasts against the input of shape [2, 3]"
    raises(ValueError, message, lambda: getattr(softmax_ext, name)(X, 1, temperature=torch.ones(shape)))


@all_three
def test_a_temperature_on_another_device(name):
    message = f"{name}: expected temperature on the input's device {X.device}, got meta"
    raises(RuntimeError, message, lambda: getattr(softmax_ext, name)(X, 1, temperature=torch.ones((), device="meta")))


@normalizations
def test_a_complex_temperature(name):
    message = f"{name}: expected a real temperature, got dtype ComplexFloat"
    temperature = torch.ones((), dtype=torch.complex64)
    raises(RuntimeError, message, lambda: getattr(softmax_ext, name)(X, 1, temperature=temperature))


@cpu_kernels_only  # on CUDA it is an assertion of the device
@pytest.mark.parametrize(("value", "position"), [(3, 1), (-1, 0), (-99, 1), (2**40, 0)])
def test_a_target_out_of_range_is_named_with_its_position(value, position):
    target = T.clone()
    target[position] = value
    message = f"cross_entropy: expected targets in [0, 3) or ignore_index -100, got {value} at position {position}"
    raises(IndexError, message, lambda: softmax_ext.cross_entropy(X, target))
    with pytest.raises(IndexError):
        F.cross_entropy(X, target)


@cpu_kernels_only
def test_no_class_at_all():
    raises(
        IndexError,
        "cross_entropy: expected targets in [0, 0) or ignore_index -100, got 0 at position 0",
        lambda: softmax_ext.cross_entropy(torch.randn(2, 0), T),
    )


@pytest.mark.parametrize(
    ("input_shape", "target_shape", "error", "message"),
    [
        ((2, 3), (3,), ValueError, "cross_entropy: expected a target for each of the 2 samples, got 3"),
        ((2, 3), (), RuntimeError, "cross_entropy: expected target of shape [2] for input [2, 3], got []"),
        ((2, 3), (2, 2), RuntimeError, "cross_entropy: expected target of shape [2] for input [2, 3], got [2, 2]"),
        (
            (2, 3, 4),
            (2, 5),
            RuntimeError,
            "cross_entropy: expected target of shape [2, 4] for input [2, 3, 4], got [2, 5]",
        ),
        ((3,), (3,), RuntimeError, "expected target of shape [] for input [3], got [3]"),
        ((), (), RuntimeError, "cross_entropy: expected an input of shape [C] or [N, C, ...], got a 0-d tensor"),
    ],
)
def test_shapes_that_do_not_match(input_shape, target_shape, error, message):
    target = torch.zeros(target_shape, dtype=torch.int64)
    raises(error, message, lambda: softmax_ext.cross_entropy(torch.randn(input_shape), target))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.int16])
def test_a_target_dtype_that_is_no_class_index(dtype):
    message = "cross_entropy: expected class indices of dtype int64, int32 or uint8 as target"
    raises(RuntimeError, message, lambda: softmax_ext.cross_entropy(X, T.to(dtype)))


def test_logits_that_are_integers():
    message = "cross_entropy: expected input of dtype float64, float32, bfloat16 or float16, got Long"
    raises(NotImplementedError, message, lambda: softmax_ext.cross_entropy(X.long(), T))


def test_a_target_on_another_device():
    message = f"cross_entropy: expected target on the input's device {X.device}, got meta"
    raises(RuntimeError, message, lambda: softmax_ext.cross_entropy(X, T.to("meta")))


def test_an_unknown_reduction():
    message = "cross_entropy: expected reduction 'none', 'mean' or 'sum', got 'average'"
    raises(ValueError, message, lambda: softmax_ext.cross_entropy(X, T, reduction="average"))
    raises(
        ValueError,
        "cross_entropy: expected reduction 0 (none), 1 (mean) or 2 (sum), got 3",
        lambda: torch.ops.softmax_ext.cross_entropy(X, T, None, 3),
    )


@pytest.mark.parametrize("value", [-0.1, 1.5])
def test_a_label_smoothing_out_of_range(value):
    message = f"cross_entropy: expected label_smoothing in [0, 1], got {value}"
    loss = nn.CrossEntropyLoss(label_smoothing=value)
    for call in (lambda: softmax_ext.cross_entropy(X, T, label_smoothing=value), lambda: loss(X, T)):
        raises(RuntimeError, message, call)
    if value > 1:  # torch takes numbers below 0
        with pytest.raises(RuntimeError):
            F.cross_entropy(X, T, label_smoothing=value)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"softcap": 0.0}, ValueError, "expected a finite softcap > 0, got 0"),
        ({"softcap": -1.0}, ValueError, "expected a finite softcap > 0, got -1"),
        ({"softcap": float("inf")}, ValueError, "expected a finite softcap > 0, got inf"),
        ({"target": torch.zeros(2, 2).long(), "z_loss": 0.1}, RuntimeError, "expected target of shape [2]"),
        ({"z_loss": -0.1}, ValueError, "expected z_loss >= 0, got -0.1"),
        ({"empty": "none"}, ValueError, "expected empty 'nan' or 'zero', got 'none'"),
        ({"temperature": -1.0}, ValueError, "expected a temperature >= 0, got -1"),
        ({"weight": torch.ones(2)}, RuntimeError, "expected weight of shape [3], one per class, got [2]"),
        (
            {"weight": torch.ones(3).long()},
            NotImplementedError,
            "expected weight of dtype float64, float32, bfloat16 or float16, got Long",
        ),
        (
            {"target": torch.ones(2, 4)},
            RuntimeError,
            "expected target of probabilities of shape [2, 3], got [2, 4]",
        ),
        (
            {"target": torch.ones(2, 3), "ignore_index": 1},
            RuntimeError,
            "expected no ignore_index with a target of probabilities, got 1",
        ),
        (
            {"temperature": torch.ones(3)},
            ValueError,
            "expected a temperature that broadcasts against the input of shape [2, 3] with size 1 in dim 1, got shape [3]",
        ),
    ],
)
def test_an_option_of_cross_entropy_that_is_none(options, error, message):
    arguments = {"target": T, **options}
    raises(error, f"cross_entropy: {message}", lambda: softmax_ext.cross_entropy(X, **arguments))


@cpu_kernels_only
@pytest.mark.parametrize(
    "options", [{"label_smoothing": 0.1}, {"weight": torch.ones(3)}, {"temperature": 2.0}], ids=str
)
def test_a_target_out_of_range_is_named_with_every_option(options):
    message = "cross_entropy: expected targets in [0, 3) or ignore_index -100, got 3 at position 1"
    raises(IndexError, message, lambda: softmax_ext.cross_entropy(X, torch.tensor([0, 3]), **options))


def test_labels_of_a_language_model_have_the_shape_of_its_positions():
    raises(
        ValueError,
        "causal_lm_loss: expected labels of shape [2] for logits of shape [2, 3], got [3]",
        lambda: softmax_ext.causal_lm_loss(X, torch.zeros(3).long()),
    )
    raises(
        TypeError,
        "causal_lm_loss: expected labels of dtype int64, int32 or uint8, got torch.float32",
        lambda: softmax_ext.causal_lm_loss(X, torch.zeros(2)),
    )
    raises(
        TypeError,
        "causal_lm_loss: expected labels of dtype int64, int32 or uint8, got NoneType",
        lambda: softmax_ext.causal_lm_loss(X, None),
    )


def test_logits_of_a_language_model_are_a_tensor_with_a_dim_of_positions():
    raises(
        ValueError,
        "causal_lm_loss: expected logits of shape [..., length, vocabulary], got [3]",
        lambda: softmax_ext.causal_lm_loss(X[0], torch.tensor(0)),
    )
    for output, word in (({"loss": X}, "dict"), ((X,), "tuple"), ({"logits": None}, "dict")):
        raises(
            TypeError,
            "causal_lm_loss: expected logits as a tensor, or a model's output that holds them as its logits, got "
            + word,
            lambda output=output: softmax_ext.causal_lm_loss(output, T),
        )


@pytest.mark.parametrize("shape", [(3,), (3, 2), (2, 1, 1), (1, 2)])
def test_a_temperature_of_a_language_model_that_does_not_broadcast(shape):
    raises(
        ValueError,
        "causal_lm_loss: expected a temperature of the labels' shape [2], or that broadcasts against [2, 1], got "
        f"{list(shape)}",
        lambda: softmax_ext.causal_lm_loss(X, T, temperature=torch.ones(shape)),
    )


def test_module_options_that_are_none():
    raises(
        ValueError,
        "CrossEntropyLoss: expected reduction 'none', 'mean' or 'sum', got 'average'",
        lambda: nn.CrossEntropyLoss(reduction="average"),
    )
    raises(
        ValueError,
        "CrossEntropyLoss: expected gradient 'recompute', 'forward' or 'inplace', got 'twice'",
        lambda: nn.CrossEntropyLoss(gradient="twice"),
    )
    raises(
        ValueError,
        "CrossEntropyLoss: expected a finite softcap > 0, got -1.0",
        lambda: nn.CrossEntropyLoss(softcap=-1.0),
    )
    raises(ValueError, "CrossEntropyLoss: expected z_loss >= 0, got -1.0", lambda: nn.CrossEntropyLoss(z_loss=-1.0))


def test_primitives_check_what_they_are_given():
    ops = torch.ops.softmax_ext
    raises(
        RuntimeError,
        "softmax_backward: expected grad of shape [2, 3], got [2, 4]",
        lambda: ops._softmax_backward(torch.ones(2, 4), X, None, 1, 1.0, 6),
    )
    raises(
        RuntimeError,
        "softmax_backward: expected grad of the output's dtype Float, got Double",
        lambda: ops._softmax_backward(X.double(), X, None, 1, 1.0, 6),
    )
    raises(
        NotImplementedError,
        "softmax: expected an output dtype of float64, float32, bfloat16 or float16, got Long",
        lambda: ops._softmax(X, None, 1, 1.0, 4),
    )
    raises(
        NotImplementedError,
        "softmax: expected the code of a dtype, got 999",
        lambda: ops._softmax(X, None, 1, 1.0, 999),
    )
    raises(
        RuntimeError,
        "logsumexp_backward: expected grad of shape [2, 1] for input [2, 3], got [2]",
        lambda: ops._logsumexp_backward(torch.ones(2), X, None, 1, 1.0),
    )
    raises(
        RuntimeError,
        "cross_entropy_backward: expected statistics of dtype Float, got Double",
        lambda: ops._cross_entropy_backward(X[:, 0], X, T, COUNT, torch.ones(2, 2).double(), 1, 0, -100),
    )
    raises(
        RuntimeError,
        "cross_entropy_backward: expected grad of shape [], got [2]",
        lambda: ops._cross_entropy_backward(X[:, 0], X, T, COUNT, torch.ones(2, 2), 1, 1, -100),
    )
    raises(
        ValueError,
        "cross_entropy: expected reduction 0 (none), 1 (mean) or 2 (sum), got 3",
        lambda: ops._cross_entropy(X, T, 1, 3, 0, -100),
    )
    raises(
        RuntimeError,
        "cross_entropy: expected 0 to 1 leading dims, got 2",
        lambda: ops._cross_entropy(X, T, 1, 0, 2, -100),
    )
    raises(
        RuntimeError,
        "cross_entropy: expected a tensor to write to without elements that share memory, got strides [0, 1]; clone it",
        lambda: ops._cross_entropy_in_place(X[:1].expand(2, 3), T, 1, 0, 0, -100),
    )
    raises(
        RuntimeError,
        "scale_gradient: expected grad of shape [2], got [3]",
        lambda: ops._scale_gradient(X.clone(), torch.ones(3), 1),
    )


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_a_temperature_of_minus_0_is_0(name):
    x = torch.tensor([2.0, 1.0, 2.0])
    of_number = getattr(softmax_ext, name)(x, 0, temperature=-0.0)
    assert torch.equal(of_number, getattr(softmax_ext, name)(x, 0, temperature=0.0))
    assert torch.equal(of_number, getattr(softmax_ext, name)(x, 0, temperature=torch.tensor(-0.0)))


# entropy, masked_softmax, causal_softmax

M = torch.tensor([True, False, True])


@pytest.mark.parametrize("base", [0.0, 1.0, -2.0, float("inf"), float("nan")])
def test_a_base_that_no_logarithm_has(base):
    message = f"entropy: expected a base of logarithms, finite, above 0 and not 1, got {base:g}"
    raises(ValueError, message, lambda: softmax_ext.entropy(X, 1, base=base))


def test_arguments_of_entropy_that_are_none():
    raises(IndexError, "entropy: expected dim in [-2, 1] for a 2-d tensor, got 2", lambda: softmax_ext.entropy(X, 2))
    raises(
        IndexError,
        "entropy: expected dim in [-1, 0] for a 1-d tensor, got 1",
        lambda: torch.vmap(lambda x: softmax_ext.entropy(x, 1))(X),
    )
    raises(
        NotImplementedError,
        "entropy: expected input of dtype float64, float32, bfloat16 or float16, got Long",
        lambda: softmax_ext.entropy(X.long(), 1),
    )
    raises(
        ValueError,
        "entropy: expected a temperature >= 0, got -1",
        lambda: softmax_ext.entropy(X, 1, temperature=-1),
    )
    raises(
        ValueError,
        "entropy: expected a temperature that broadcasts against the input of shape [2, 3] with size 1 in dim 1, got "
        "shape [3]",
        lambda: softmax_ext.entropy(X, 1, temperature=torch.ones(3)),
    )
    raises(
        RuntimeError,
        "entropy: expected a real temperature, got dtype ComplexFloat",
        lambda: softmax_ext.entropy(X, 1, temperature=torch.ones((), dtype=torch.complex64)),
    )
    raises(
        RuntimeError,
        "entropy_backward: expected grad of shape [2, 1] for input [2, 3], got [2]",
        lambda: torch.ops.softmax_ext._entropy_backward(torch.ones(2), X, None, 1, 1.0),
    )


@pytest.mark.parametrize("shape", [(2,), (3, 3), (1, 2, 3), (4, 1)])
def test_a_mask_that_does_not_broadcast(shape):
    message = (
        f"masked_softmax: expected a mask that broadcasts against the input of shape [2, 3], got shape {list(shape)}"
    )
    raises(ValueError, message, lambda: softmax_ext.masked_softmax(X, torch.ones(shape, dtype=torch.bool), 1))


@pytest.mark.parametrize(("dtype", "word"), [(torch.float32, "Float"), (torch.uint8, "Byte"), (torch.int64, "Long")])
def test_a_mask_that_is_not_bool(dtype, word):
    message = f"masked_softmax: expected a mask of dtype bool, got {word}"
    raises(RuntimeError, message, lambda: softmax_ext.masked_softmax(X, M.to(dtype), 1))


def test_entropy_of_integers_names_no_option_that_it_has_not():
    with pytest.raises(NotImplementedError, match=r"entropy: expected input of dtype .* got Long$"):
        softmax_ext.entropy(X.long(), 1)


def test_arguments_of_masked_softmax_that_are_none():
    raises(RuntimeError, "masked_softmax: expected a mask, got none", lambda: softmax_ext.masked_softmax(X, None, 1))
    raises(
        RuntimeError,
        "causal_softmax: expected no mask, got one",
        lambda: torch.ops.softmax_ext._masked_softmax(X, M, None, -1, 1.0, None, True, True),
    )
    raises(
        RuntimeError,
        f"masked_softmax: expected mask on the input's device {X.device}, got meta",
        lambda: softmax_ext.masked_softmax(X, M.to("meta"), 1),
    )
    raises(
        IndexError,
        "masked_softmax: expected dim in [-2, 1] for a 2-d tensor, got 2",
        lambda: softmax_ext.masked_softmax(X, M, 2),
    )
    raises(
        IndexError,
        "masked_softmax: expected dim in [-1, 0] for a 1-d tensor, got 1",
        lambda: torch.vmap(lambda x: softmax_ext.masked_softmax(x, M, 1))(X),
    )
    raises(
        NotImplementedError,
        "masked_softmax: expected input of dtype float64, float32, bfloat16 or float16, got Long",
        lambda: softmax_ext.masked_softmax(X.long(), M, 1),
    )
    raises(
        ValueError,
        "masked_softmax: expected empty 'nan' or 'zero', got 'one'",
        lambda: softmax_ext.masked_softmax(X, M, 1, empty="one"),
    )
    raises(
        ValueError,
        "masked_softmax: expected a temperature >= 0, got -1",
        lambda: softmax_ext.masked_softmax(X, M, 1, temperature=-1.0),
    )


def test_arguments_of_causal_softmax_that_are_none():
    message = "causal_softmax: expected scores of shape [..., queries, keys], got "
    raises(RuntimeError, message + "[3]", lambda: softmax_ext.causal_softmax(X[0]))
    raises(RuntimeError, message + "[]", lambda: softmax_ext.causal_softmax(torch.tensor(1.0)))
    raises(RuntimeError, message + "a 1-d tensor", lambda: torch.vmap(softmax_ext.causal_softmax)(X))
    raises(
        ValueError,
        "causal_softmax: expected empty 'nan' or 'zero', got 'none'",
        lambda: softmax_ext.causal_softmax(X, empty="none"),
    )
    raises(
        ValueError,
        "causal_softmax: expected a temperature >= 0, got -1",
        lambda: softmax_ext.causal_softmax(X, temperature=-1.0),
    )
    raises(
        RuntimeError,
        "causal_softmax: expected the last dim, got 0",
        lambda: torch.ops.softmax_ext._masked_softmax(X, None, None, 0, 1.0, None, True, True),
    )
