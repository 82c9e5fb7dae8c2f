"""causal_lm_loss in transformers' Trainer, beside the loss that models bring. The models are made from configs, with
random weights: nothing is downloaded."""

import functools

import pytest
import torch
import transformers
from backend import DEVICE

import softmax_ext

VOCABULARY, LENGTH, STEPS = 101, 12, 4
MODELS = {
    "GPT-2": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=VOCABULARY,
            bos_token_id=0,
            eos_token_id=0,
            n_positions=LENGTH,
            n_embd=16,
            n_layer=2,
            n_head=2,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
    ),
    "Llama": lambda: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=LENGTH,
        )
    ),
}
models = pytest.mark.parametrize("model", MODELS)
ways = pytest.mark.parametrize("way", ["recompute", "forward", "inplace"])


def texts(count):
    """Of different numbers of labels that count, so that batches weigh differently."""
    tokens = torch.randint(VOCABULARY, (count, LENGTH))
    for i, row in enumerate(tokens):
        labels = row.clone()
        labels[: i % 5] = labels[LENGTH - i * 3 % 8 :] = -100
        yield {"input_ids": row, "labels": labels}


class Recorder(transformers.TrainerCallback):
    """The gradients of every step, as the optimizer takes them, and the losses."""

    def __init__(self):
        self.gradients, self.losses = [], []

    def on_pre_optimizer_step(self, args, state, control, model, **_):
        self.gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})

    def on_log(self, args, state, control, logs, **_):
        self.losses += [logs[name] for name in ("loss", "eval_loss") if name in logs]


def trained(folder, model, data, loss, accumulation):
    """What was recorded of a training that begins with the same weights whatever the loss."""
    transformers.set_seed(0)
    recorder = Recorder()
    trainer = transformers.Trainer(
        MODELS[model](),
        transformers.TrainingArguments(
            output_dir=str(folder),
            use_cpu=DEVICE == "cpu",
            per_device_train_batch_size=3,
            gradient_accumulation_steps=accumulation,
            max_steps=STEPS,
            optim="sgd",  # what normalizes gradients would make a difference of one that is 0 but for rounding
            learning_rate=0.5,
            max_grad_norm=0.0,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=data,
        eval_dataset=data[:3],
        compute_loss_func=loss,
        callbacks=[recorder],
    )
    trainer.train()
    trainer.evaluate()
    return recorder


@pytest.fixture(scope="module")
def loss_of_transformers(tmp_path_factory):
    """The same training with the loss that the model brings."""

    @functools.cache
    def train(model, accumulation):
        torch.manual_seed(0)
        return trained(tmp_path_factory.mktemp("stock"), model, list(texts(24)), None, accumulation)

    return train


@pytest.fixture(autouse=True)
def _one_thread():
    """More would wait for each other in models as small as these."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@models
@ways
@pytest.mark.parametrize("accumulation", [1, 2])
def test_training_has_the_losses_and_gradients_of_the_models_own_loss(
    tmp_path, loss_of_transformers, model, way, accumulation
):
    expected = loss_of_transformers(model, accumulation)
    torch.manual_seed(0)
    loss = functools.partial(softmax_ext.causal_lm_loss, gradient=way)
    record = trained(tmp_path, model, list(texts(24)), loss, accumulation)
    assert len(record.gradients) == STEPS
    for step, (gradients, wanted) in enumerate(zip(record.gradients, expected.gradients, strict=True), 1):
        for name, gradient in wanted.items():
            # Rounding of float32, in a sum of many; each step starts where the one before ended.
            off = (gradients[name] - gradient).norm() / gradient.norm()
            assert off <= 16 * step * torch.finfo(torch.float32).eps, f"{name} in step {step}"
    assert len(record.losses) == STEPS + 1
    assert record.losses == pytest.approx(expected.losses, rel=0, abs=1e-4)  # logged to four digits
