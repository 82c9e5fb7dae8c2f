"""out= of softmax, log_softmax and their backwards, as torch's."""

import warnings

import pytest
import torch
from operators import DTYPE_CODES

import softmax_ext

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
FORWARD = {"softmax": softmax_ext.softmax, "log_softmax": softmax_ext.log_softmax}
ops = torch.ops.softmax_ext
BACKWARD = {"softmax": ops._softmax_backward, "log_softmax": ops._log_softmax_backward}
# Rows in registers, batches, in chunks that threads share; and columns.
SHAPES = [
    ((7, 5), 1),
    ((20, 100), 1),
    ((2, 9001), 1),
    ((2, 30, 40), 1),
    ((9, 300), 0),
    ((0, 3), 1),
    ((3, 0), 1),
    ((), 0),
]

names = pytest.mark.parametrize("name", FORWARD)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
shapes = pytest.mark.parametrize(("shape", "dim"), SHAPES, ids=str)


@names
@dtypes
@shapes
def test_the_result_is_that_of_a_call_without_it(name, dtype, shape, dim):
    x = torch.randn(shape).to(dtype)
    expected = FORWARD[name](x, dim)
    out = torch.full_like(x, float("nan"))
    assert FORWARD[name](x, dim, out=out) is out
    assert torch.equal(out, expected)


@names
@dtypes
@shapes
def test_the_input_may_be_the_output(name, dtype, shape, dim):
    x = torch.randn(shape).to(dtype)
    if x.numel() > 100:
        x.view(-1)[[0, 50, 99]] = torch.tensor([-torch.inf, torch.inf, torch.nan], dtype=dtype)
    expected = FORWARD[name](x, dim)
    version = x._version
    FORWARD[name](x, dim, out=x)
    torch.testing.assert_close(x, expected, rtol=0, atol=0, equal_nan=True)
    assert x._version > version


@names
@dtypes
@shapes
@pytest.mark.parametrize("over", ["grad", "output", "another"])
def test_backwards_write_over_an_input_too(name, dtype, shape, dim, over):
    tensors = {"output": FORWARD[name](torch.randn(shape).to(dtype), dim), "grad": torch.randn(shape).to(dtype)}
    tensors["another"] = torch.empty_like(tensors["grad"])
    arguments = (tensors["grad"], tensors["output"], None, dim, 0.5, DTYPE_CODES[dtype])
    expected = BACKWARD[name](*arguments)
    BACKWARD[name].out(*arguments, out=tensors[over])
    assert torch.equal(tensors[over], expected)


@names
@pytest.mark.parametrize("temperature", [0.5, torch.tensor([[0.5], [2.0], [0.0]])], ids=["number", "tensor"])
def test_with_a_temperature_and_a_dtype(name, temperature):
    x = torch.randn(3, 50).to(torch.bfloat16)
    expected = FORWARD[name](x, 1, torch.float32, temperature=temperature)
    out = torch.empty(3, 50)
    FORWARD[name](x, 1, torch.float32, temperature=temperature, out=out)
    assert torch.equal(out, expected)


@names
def test_an_output_that_is_no_block_of_memory_is_written_where_its_elements_are(name):
    x = torch.randn(6, 8)
    expected = FORWARD[name](x, 1)
    base = torch.full((8, 13), float("nan"))
    out = base.t()[:6]
    FORWARD[name](x, 1, out=out)
    assert torch.equal(out, expected)
    assert base[:, 6:].isnan().all()


@names
def test_an_input_that_is_an_expanded_part_of_the_output(name):
    memory = torch.randn(4, 6)
    x = memory[:1].expand(4, 6)
    expected = FORWARD[name](x.clone(), 1)
    FORWARD[name](x, 1, out=memory)
    assert torch.equal(memory, expected)


@names
def test_an_output_of_another_shape_is_resized(name, capfd):
    x = torch.randn(3, 5)
    out = torch.empty(0)
    FORWARD[name](x, 1, out=out)
    assert torch.equal(out, FORWARD[name](x, 1))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        FORWARD[name](x, 1, out=torch.empty(2, 2))
    # torch 2.11 writes the warning of an operator to stderr, later ones make it Python's.
    shown = capfd.readouterr().err + "".join(str(warning.message) for warning in caught)
    assert "An output with one or more elements was resized" in shown


@names
def test_a_partial_overlap_is_an_error(name):
    memory = torch.randn(100)
    with pytest.raises(RuntimeError, match="expected out to be an input itself or to share no memory"):
        FORWARD[name](memory[:60].view(3, 20), 1, out=memory[20:80].view(3, 20))
    y = FORWARD[name](memory[:60].view(3, 20), 1)
    shifted = torch.cat([y.flatten(), torch.zeros(20)])
    arguments = (torch.randn(3, 20), shifted[20:].view(3, 20), None, 1, 1.0, DTYPE_CODES[torch.float32])
    with pytest.raises(RuntimeError, match="expected out to be an input itself"):
        BACKWARD[name].out(*arguments, out=shifted[:60].view(3, 20))


@names
def test_another_dtype_is_an_error(name):
    with pytest.raises(RuntimeError, match="expected out of dtype Float, got Double"):
        FORWARD[name](torch.randn(3), 0, out=torch.empty(3, dtype=torch.float64))


@names
def test_another_device_is_an_error(name):
    with pytest.raises(RuntimeError, match="expected out on the input's device"):
        FORWARD[name](torch.randn(3), 0, out=torch.empty(3, device="meta"))


@names
def test_autograd_is_an_error(name):
    x = torch.randn(3, requires_grad=True)
    with pytest.raises(RuntimeError, match="don't support automatic differentiation"):
        FORWARD[name](x, 0, out=torch.empty(3))
    with torch.no_grad():
        FORWARD[name](x, 0, out=torch.empty(3))


@names
def test_forward_mode_is_an_error(name):
    x, tangent = torch.randn(3), torch.randn(3)
    with pytest.raises(RuntimeError, match="don't support automatic differentiation"):
        torch.func.jvp(lambda x: FORWARD[name](x, 0, out=torch.empty(3)), (x,), (tangent,))
    temperature = torch.tensor(2.0)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(temperature, torch.tensor(1.0))
        with pytest.raises(RuntimeError, match="don't support automatic differentiation"):
            FORWARD[name](x, 0, temperature=dual, out=torch.empty(3))


@names
def test_what_is_wrong_is_said_before_the_output_is_resized(name):
    out = torch.empty(0)
    with pytest.raises(IndexError, match="expected dim"):
        FORWARD[name](torch.randn(3, 4), 5, out=out)
    with pytest.raises(ValueError, match="temperature that broadcasts"):
        FORWARD[name](torch.randn(3, 4), 1, temperature=torch.ones(2, 1), out=out)
    assert out.shape == (0,)


@names
def test_the_temperature_may_be_the_output(name):
    x, temperature = torch.randn(6, 1, 4), torch.rand(6, 4) + 0.5
    expected = FORWARD[name](x, 1, temperature=temperature[:, None])
    FORWARD[name](x, 1, temperature=temperature[:, None], out=temperature)
    assert torch.equal(temperature, expected)


@names
def test_an_inference_tensor_is_written_in_inference_mode_alone(name):
    with torch.inference_mode():
        out = torch.empty(3)
        FORWARD[name](torch.zeros(3), 0, out=out)
    with pytest.raises(RuntimeError, match="inference tensor outside InferenceMode"):
        FORWARD[name](torch.zeros(3), 0, out=out)


@names
def test_the_same_memory_in_another_order_is_no_partial_overlap(name):
    x = torch.randn(5, 5)
    expected = FORWARD[name](x.t(), 1)
    FORWARD[name](x.t(), 1, out=x)
    assert torch.equal(x, expected)
    y = torch.randn(5)
    expected = FORWARD[name](y.as_strided((5, 1), (1, 7)), 0)
    out = y.view(5, 1)
    FORWARD[name](y.as_strided((5, 1), (1, 7)), 0, out=out)
    assert torch.equal(out, expected)


@names
def test_primitives_take_no_output_that_may_overlap(name):
    memory = torch.randn(4, 12)
    with pytest.raises(RuntimeError, match="expected out to be an input itself"):
        getattr(ops, f"_{name}_into")(memory[:, ::2], None, 1, 1.0, memory.view(-1)[24:].view(4, 6))


@names
def test_what_autograd_has_saved_must_not_be_overwritten(name):
    x = torch.randn(3, requires_grad=True)
    saved = x * 2
    y = saved.square()
    with torch.no_grad():
        FORWARD[name](saved, 0, out=saved)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@names
def test_in_a_compiled_function(name):
    def function(x, out):
        FORWARD[name](x, 1, out=out)
        return out * 2

    compiled = torch.compile(function, fullgraph=True)
    for rows in (3, 4, 5):  # from the second on with a symbolic size
        x, out = torch.randn(rows, 50), torch.empty(rows, 50)
        expected = FORWARD[name](x, 1)
        result = compiled(x, out)
        torch.testing.assert_close(out, expected)
        torch.testing.assert_close(result, 2 * expected)


@names
def test_opcheck_passes_for_the_primitives(name):
    x, grad = torch.randn(3, 50), torch.randn(3, 50)
    y = FORWARD[name](x, 1)
    temperature = torch.rand(3, 1) + 0.5
    for t in (None, temperature):
        torch.library.opcheck(getattr(ops, f"_{name}_into").default, (x, t, 1, 1.0, torch.empty_like(x)))
        backward = getattr(ops, f"_{name}_backward_into").default
        torch.library.opcheck(backward, (grad, y, t, 1, 1.0, torch.empty_like(x)))


@names
def test_on_meta_tensors(name):
    x = torch.empty(3, 5, device="meta")
    assert FORWARD[name](x, 1, out=torch.empty(0, device="meta")).shape == (3, 5)
