"""accelerate() on transformers' models: the losses and gradients of torch's functions. The models are made from configs,
with random weights: nothing is downloaded."""

from collections import Counter

import pytest
import torch
import transformers

from softmax_ext import accelerate

LAYERS, VOCABULARY, LENGTH, LABELS = 2, 101, 12, 5
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": 2}
OF_TEXT = {**SIZES, "vocab_size": VOCABULARY, "max_position_embeddings": LENGTH}

#: Class, config, and the calls of softmax beside those of attention: of Mixtral, by the router of each layer and by its
#: balancing loss.
MODELS = {
    "GPT-2": (
        transformers.GPT2LMHeadModel,
        lambda **options: transformers.GPT2Config(
            vocab_size=VOCABULARY,
            bos_token_id=0,
            eos_token_id=0,
            n_positions=LENGTH,
            n_embd=16,
            n_layer=LAYERS,
            n_head=2,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            **options,
        ),
        0,
    ),
    "Llama": (
        transformers.LlamaForCausalLM,
        lambda **options: transformers.LlamaConfig(**OF_TEXT, bos_token_id=0, eos_token_id=0, **options),
        0,
    ),
    "ViT": (
        transformers.ViTForImageClassification,
        lambda **options: transformers.ViTConfig(
            **SIZES,
            image_size=16,
            patch_size=4,
            num_labels=LABELS,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            **options,
        ),
        0,
    ),
    "Mixtral": (
        transformers.MixtralForCausalLM,
        lambda **options: transformers.MixtralConfig(
            **OF_TEXT,
            num_key_value_heads=2,
            num_local_experts=4,
            num_experts_per_tok=2,
            output_router_logits=True,
            router_aux_loss_coef=0.1,
            **options,
        ),
        2 * LAYERS,
    ),
}
models = pytest.mark.parametrize("name", MODELS)


def model_and_inputs(name, attention="eager", **options):
    kind, config, _ = MODELS[name]
    model = kind(config(attn_implementation=attention, **options)).train()
    if name == "ViT":
        return model, {"pixel_values": torch.randn(3, 3, 16, 16), "labels": torch.arange(3) % LABELS}
    tokens = torch.randint(1, VOCABULARY, (3, LENGTH))
    return model, {"input_ids": tokens, "labels": tokens}


def loss_and_gradients(model, inputs):
    model.zero_grad()
    loss = model(**inputs).loss
    loss.backward()
    return loss.detach(), {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def same(actual, expected):
    """But for the rounding of float32 in sums of many. The gradient of a key's bias is 0 but for that, so what a
    difference is small beside is the largest gradient of a parameter."""
    torch.testing.assert_close(actual[0], expected[0], rtol=8 * torch.finfo(torch.float32).eps, atol=0)
    largest = max(gradient.norm() for gradient in expected[1].values())
    assert largest > 0.1
    for name, gradient in expected[1].items():
        assert (actual[1][name] - gradient).norm() <= 16 * torch.finfo(torch.float32).eps * largest, name


def expected_calls(name, attention, times=1):
    softmaxes = MODELS[name][2] + (LAYERS if attention == "eager" else 0)
    return Counter({"softmax": times * softmaxes, "cross_entropy": times}) - Counter()


@models
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_losses_and_gradients_in_a_block_are_those_without(name, attention):
    model, inputs = model_and_inputs(name, attention)
    expected = loss_and_gradients(model, inputs)
    with accelerate() as record:
        actual = loss_and_gradients(model, inputs)
    assert record.taken == expected_calls(name, attention)
    assert not record.fell_back
    same(actual, expected)


@models
def test_losses_and_gradients_of_an_accelerated_model_are_those_without(name):
    model, inputs = model_and_inputs(name)
    expected = loss_and_gradients(model, inputs)
    record = accelerate(model)
    for _ in range(2):
        actual = loss_and_gradients(model, inputs)
    assert record.taken == expected_calls(name, "eager", times=2)
    assert not record.fell_back
    same(actual, expected)


@models
@pytest.mark.filterwarnings("ignore:.*use_cache=True")
def test_checkpointed_layers_have_the_gradients_of_layers_that_are_not(name):
    model, inputs = model_and_inputs(name)
    expected = loss_and_gradients(model, inputs)
    model.gradient_checkpointing_enable()
    with accelerate() as record:
        same(loss_and_gradients(model, inputs), expected)
    assert record.taken["softmax"] > expected_calls(name, "eager")["softmax"]  # they ran again, on ours
    accelerate(model)
    same(loss_and_gradients(model, inputs), expected)


@pytest.mark.parametrize("name", ["GPT-2", "Llama", "Mixtral"])
def test_greedy_generation_takes_the_same_tokens(name):
    model, inputs = model_and_inputs(name)
    model.eval()
    prompt = inputs["input_ids"][:, :4]
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    expected = model.generate(prompt, **options)
    record = accelerate(model)
    assert torch.equal(model.generate(prompt, **options), expected)
    assert record.taken["softmax"] >= 6 * LAYERS
