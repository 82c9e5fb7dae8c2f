"""What accelerate() makes of transformers' models on this CPU: forward and backward of a training step, before and after.

    python -m benchmarks.models                          the table
    python -m benchmarks.models --result benchmarks/MODELS.md   and a file of it

The models are made from configs, with random weights, in float32: nothing is downloaded. Torch's functions and ours take
turns in one process. The time is the processor's, of one thread unless more are asked for, which other processes disturb
less than the time of day. The peak of memory is that of one step, beyond what was in use before it.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers

import softmax_ext
from benchmarks.cpu.memory import peak
from benchmarks.interleaved import machine, medians

SIZES = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "max_position_embeddings": 512}


@dataclass(frozen=True)
class Model:
    name: str
    about: str
    make: Callable[..., torch.nn.Module]
    inputs: Callable[[], dict[str, torch.Tensor]]


def text(vocabulary: int, batch: int, length: int) -> dict[str, torch.Tensor]:
    tokens = torch.randint(1, vocabulary, (batch, length))
    return {"input_ids": tokens, "labels": tokens}


def gpt2(**options) -> torch.nn.Module:
    config = transformers.GPT2Config(n_embd=256, n_layer=4, n_head=4, n_positions=512, **options)
    return transformers.GPT2LMHeadModel(config)


def llama(**options) -> torch.nn.Module:
    config = transformers.LlamaConfig(**SIZES, intermediate_size=688, vocab_size=32000, **options)
    return transformers.LlamaForCausalLM(config)


def vit(**options) -> torch.nn.Module:
    sizes = {"hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 12, "num_attention_heads": 3}
    return transformers.ViTForImageClassification(transformers.ViTConfig(**sizes, num_labels=1000, **options))


def mixtral(**options) -> torch.nn.Module:
    config = transformers.MixtralConfig(
        **SIZES,
        intermediate_size=512,
        vocab_size=32000,
        num_key_value_heads=4,
        num_local_experts=8,
        output_router_logits=True,
        **options,
    )
    return transformers.MixtralForCausalLM(config)


MODELS = (
    Model("GPT-2", "4 layers of 256, 50257 tokens, 2 × 256", gpt2, lambda: text(50257, 2, 256)),
    Model("Llama", "4 layers of 256, 32000 tokens, 2 × 256", llama, lambda: text(32000, 2, 256)),
    Model(
        "ViT",
        "12 layers of 192, 197 patches, 4 images",
        vit,
        lambda: {"pixel_values": torch.randn(4, 3, 224, 224), "labels": torch.arange(4)},
    ),
    Model("Mixtral", "4 layers of 256, 8 experts, 32000 tokens, 2 × 256", mixtral, lambda: text(32000, 2, 256)),
)


def steps(model: Model, attention: str) -> tuple[dict[str, Callable[[], object]], softmax_ext.Acceleration]:
    torch.manual_seed(0)
    network, inputs = model.make(attn_implementation=attention).train(), model.inputs()
    record = softmax_ext.accelerate()

    def step() -> None:
        network(**inputs).loss.backward()
        network.zero_grad(set_to_none=True)

    def accelerated() -> None:
        with record:
            step()

    return {"torch": step, "softmax_ext": accelerated}, record


def row(model: Model, attention: str, repeats: int) -> str:
    functions, record = steps(model, attention)
    memory = {name: peak(lambda _, function=function: function(), None) for name, function in functions.items()}
    taken = ", ".join(f"{count // 2} {name}" for name, count in record.taken.most_common())
    assert not record.fell_back, record.report()
    times = medians(functions, repeats, batch_seconds=0, trials=1, clock=time.process_time)
    cells = [
        f"{model.name}: {model.about}",
        attention,
        taken,
        *(f"{times[name] * 1e3:.0f} ms" for name in functions),
        f"{times['torch'] / times['softmax_ext']:.2f} ×",
        *(f"{memory[name] / 2**20:.0f} MiB" for name in functions),
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [model.name for model in MODELS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="names of models")
    parser.add_argument("--attention", nargs="+", default=["eager", "sdpa"], help="transformers' implementations")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7, help="steps of each, in turn")
    parser.add_argument("--result", type=Path, help="a file for the table")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    lines = [
        "# accelerate() on transformers' models",
        "",
        "A training step's forward and backward pass, by torch's functions and by ours, which take turns in one process:",
        "medians of processor time; what was taken of a step; and the peak of memory of a step, beyond the model's own.",
        "",
        "```",
        f"{machine()}, transformers {transformers.__version__}",
        "```",
        "",
        "| model | attention | taken | torch | softmax_ext | ratio | peak, torch | peak, softmax_ext |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    print("\n".join(lines), flush=True)
    for model in MODELS:
        for attention in arguments.attention if model.name in arguments.only else []:
            lines.append(row(model, attention, arguments.repeats))
            print(lines[-1], flush=True)
    if arguments.result:
        arguments.result.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
