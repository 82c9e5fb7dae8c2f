"""Sampling under what traces, compiles, maps and scripts operators, and in Hugging Face's generate."""

import io
import math

import pytest
import torch
from backend import cpu_kernels_only
from sampling_reference import kept

import softmax_ext
from softmax_ext import SamplingProcessor, sample

ops = torch.ops.softmax_ext


@pytest.fixture(autouse=True)
def _reset_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


PRIMITIVE_CALLS = {
    "numbers": lambda x: (x, torch.tensor(5), None, None, None, None, 0.7, 3, 0.9, 0.01, 2),
    "tensors": lambda x: (
        x,
        torch.arange(4),
        torch.rand(4, dtype=torch.float64) + 0.5,
        torch.tensor([1, 0, 3, 100]),
        torch.tensor(0.9, dtype=torch.float64),
        torch.tensor([0.01], dtype=torch.float64),
        1.0,
        0,
        1.0,
        0.0,
        1,
    ),
}


@pytest.mark.parametrize("call", PRIMITIVE_CALLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck_passes_for_the_primitive(call, dtype, requires_grad):
    logits = torch.randn(4, 9).to(dtype).requires_grad_(requires_grad)
    torch.library.opcheck(ops._sample.default, PRIMITIVE_CALLS[call](logits))


def test_what_draws_a_seed_says_so_and_what_is_given_one_does_not():
    for overload in (ops.sample.default, ops.sample.tensors):
        assert torch.Tag.nondeterministic_seeded in overload.tags
    assert torch.Tag.nondeterministic_seeded not in ops._sample.default.tags


def test_nothing_is_differentiable():
    logits = torch.randn(3, 5, requires_grad=True)
    for result in sample(logits, temperature=torch.tensor(0.5, requires_grad=True)):
        assert not result.requires_grad


def test_shapes_without_data():
    indices, log_probs = sample(torch.empty(2, 3, 7, device="meta", dtype=torch.float16), num_samples=4)
    assert indices.shape == log_probs.shape == (2, 3, 4)
    assert (indices.dtype, log_probs.dtype) == (torch.int64, torch.float32)


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_a_compiled_call_with_a_seed_gives_what_eager_gives(backend):
    def draw(logits, seed, temperature):
        return sample(logits * 2, seed=seed, temperature=temperature, top_k=5, top_p=0.9, num_samples=3)

    compiled = torch.compile(draw, backend=backend, fullgraph=True)
    for seed in (torch.tensor(3), torch.arange(6)):
        arguments = torch.randn(6, 50), seed, torch.rand(6) + 0.5
        for actual, expected in zip(compiled(*arguments), draw(*arguments), strict=True):
            assert torch.equal(actual, expected)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_a_compiled_call_draws_anew_each_time(backend):
    compiled = torch.compile(lambda x: sample(x, temperature=0.9)[0], backend=backend, fullgraph=True)
    logits = torch.zeros(50, 1000)
    first, second = compiled(logits), compiled(logits)
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    third = compiled(logits)
    torch.manual_seed(0)
    assert torch.equal(compiled(logits), third)


def test_sizes_that_vary_compile_to_one_graph():
    compiled = torch.compile(
        lambda x, s: sample(x, seed=s, min_p=0.05), backend="aot_eager", fullgraph=True, dynamic=True
    )
    with torch._dynamo.config.patch(error_on_recompile=True):
        for rows, length in ((4, 6), (7, 5), (12, 33)):
            logits, seed = torch.randn(rows, length), torch.arange(rows)
            assert torch.equal(compiled(logits, seed)[0], sample(logits, seed=seed, min_p=0.05)[0])


class Sampler(torch.nn.Module):
    def forward(self, logits: torch.Tensor, seed: torch.Tensor, top_p: torch.Tensor):
        by_numbers = torch.ops.softmax_ext.sample(logits, 0.7, 5, 0.9, 0.0, 2, None, seed)
        by_tensors = torch.ops.softmax_ext.sample(logits, None, None, top_p, None, 1, None, seed)
        drawn_anew = torch.ops.softmax_ext.sample(logits)
        return by_numbers[0], by_tensors[0], drawn_anew[0]


def sampler_inputs():
    return torch.randn(3, 8), torch.arange(3), torch.tensor([0.5, 0.9, 1.0])


def assert_samples_as_eager(module):
    inputs = sampler_inputs()
    actual, expected = module(*inputs), Sampler()(*inputs)
    assert torch.equal(actual[0], expected[0])
    assert torch.equal(actual[1], expected[1])
    torch.manual_seed(8)
    again = module(*inputs)[2]
    torch.manual_seed(8)
    assert torch.equal(module(*inputs)[2], again)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_scripted_and_saved():
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(Sampler()), file)
    file.seek(0)
    assert_samples_as_eager(torch.jit.load(file))


@pytest.mark.filterwarnings("ignore:The given buffer is not writable", "ignore:`isinstance.treespec, LeafSpec.` is")
def test_exported_and_saved():
    program = torch.export.export(Sampler(), sampler_inputs())
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    for exported in (program, program.run_decompositions(), torch.export.load(file)):
        assert_samples_as_eager(exported.module())


# vmap, without its fallback, a loop over the batch


@pytest.fixture
def _no_vmap_fallback():
    was_enabled = torch._C._functorch._is_vmap_fallback_enabled()
    torch._C._functorch._set_vmap_fallback_enabled(False)
    yield
    torch._C._functorch._set_vmap_fallback_enabled(was_enabled)


VMAPPED = {
    "logits": ((4, 3, 7), (), (), (0, None, None)),
    "logits and seeds": ((4, 3, 7), (4,), (), (0, 0, None)),
    "logits and a seed for each row": ((4, 3, 7), (4, 3), (4,), (0, 0, 0)),
    "one row each": ((7, 4), (4,), (4,), (1, 0, 0)),
    "seeds alone": ((3, 7), (4,), (3,), (None, 0, None)),
    "temperatures alone": ((3, 7), (), (4, 3), (None, None, 0)),
}


@pytest.mark.parametrize("name", VMAPPED)
@pytest.mark.usefixtures("_no_vmap_fallback")
def test_vmap_gives_what_each_sample_gives_alone(name):
    logits_shape, seed_shape, temperature_shape, in_dims = VMAPPED[name]
    arguments = (torch.randn(logits_shape), torch.randint(1000, seed_shape), torch.rand(temperature_shape) + 0.5)

    def draw(logits, seed, temperature):
        return sample(logits, seed=seed, temperature=temperature, top_k=5, num_samples=2)

    indices, log_probs = torch.vmap(draw, in_dims)(*arguments)
    for i in range(4):
        alone = draw(*(a if d is None else a.select(d, i) for a, d in zip(arguments, in_dims, strict=True)))
        assert torch.equal(indices[i], alone[0])
        assert torch.equal(log_probs[i], alone[1])


@pytest.mark.usefixtures("_no_vmap_fallback")
def test_vmap_draws_as_its_randomness_says():
    logits = torch.zeros(5, 1000)
    different = torch.vmap(lambda x: sample(x)[0], randomness="different")(logits)
    assert len(different.unique()) > 1
    same = torch.vmap(lambda x: sample(x)[0], randomness="same")(logits)
    assert len(same.unique()) == 1
    with pytest.raises(RuntimeError, match="randomness"):
        torch.vmap(lambda x: sample(x)[0])(logits)


# Hugging Face


def tiny_model():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        bos_token_id=1,
        eos_token_id=None,
        pad_token_id=0,
    )
    model = transformers.LlamaForCausalLM(config).eval()
    for parameter in model.parameters():
        parameter.data.mul_(8)  # else all tokens are as likely
    return model


@cpu_kernels_only
def test_generate_draws_with_the_processor():
    model = tiny_model()
    prompt = torch.tensor([[1, 5, 9], [1, 7, 2]])

    def generate(seed, **options):
        processor = SamplingProcessor(generator=torch.Generator().manual_seed(seed), **options)
        return model.generate(prompt, max_new_tokens=12, do_sample=False, logits_processor=[processor])

    text = generate(0, temperature=0.8, top_k=20, top_p=0.9)
    assert text.shape == (2, 15)
    assert torch.equal(generate(0, temperature=0.8, top_k=20, top_p=0.9), text)
    assert not torch.equal(generate(1, temperature=0.8, top_k=20, top_p=0.9), text)
    greedy = model.generate(prompt, max_new_tokens=12, do_sample=False)
    assert torch.equal(generate(3, temperature=0.0), greedy)
    # Each token is one that the filters keep, given what stands before it.
    logits = model(text).logits[:, 2:-1]
    assert kept(logits, 0.8, 20, 0.9).gather(-1, text[:, 3:, None]).all()


@pytest.mark.parametrize("rows", [50])
def test_filters_keep_what_hugging_faces_processors_keep(rows):
    """On rows without ties, where the order of equal logits cannot matter."""
    processors = pytest.importorskip("transformers.generation.logits_process")
    logits = torch.randn(rows, 400, dtype=torch.float64) * 2
    cases = [
        ({"top_k": 30}, [processors.TopKLogitsWarper(30)]),
        ({"top_p": 0.8}, [processors.TopPLogitsWarper(0.8)]),
        ({"min_p": 0.05}, [processors.MinPLogitsWarper(0.05)]),
        (
            {"temperature": 0.7, "top_k": 50, "top_p": 0.9, "min_p": 0.02},
            [
                processors.TemperatureLogitsWarper(0.7),
                processors.TopKLogitsWarper(50),
                processors.TopPLogitsWarper(0.9),
                processors.MinPLogitsWarper(0.02),
            ],
        ),
    ]
    for options, warpers in cases:
        scores = logits.clone()
        for warper in warpers:
            scores = warper(None, scores)
        probs = scores.softmax(-1)
        indices, log_probs = sample(logits, num_samples=20, **options)
        # Equal probabilities of a token mean equal sums over what is kept.
        torch.testing.assert_close(log_probs, probs.gather(-1, indices).log(), rtol=1e-12, atol=1e-12)
        assert torch.equal(kept(logits, **options), scores > -math.inf)


def test_numbers_and_tensors_mean_the_same():
    logits = torch.randn(4, 9)
    expected = sample(logits, temperature=0.5, top_k=3, seed=1)
    actual = softmax_ext.sample(logits, temperature=torch.tensor(0.5), top_k=torch.tensor(3), seed=torch.tensor(1))
    assert torch.equal(actual[0], expected[0])
    assert torch.equal(actual[1], expected[1])
