"""Continues a text by a real language model at three temperatures, with and without filters of its 49,152 tokens.

    pip install transformers accelerate gguf
    python -m examples.generate "The sea was"

Each token is drawn by softmax_ext.sample, through softmax_ext.SamplingProcessor in Hugging Face's generate. The model is
SmolLM2-135M; it is downloaded once (93 MB). The last column is the entropy of what tokens were drawn from, in bits.
"""

import argparse
import sys
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import softmax_ext
from examples import smollm, wheels

BUILD = Path(__file__).resolve().parents[1] / "build"
SETTINGS = (
    {"temperature": 0.3},
    {"temperature": 1.0},
    {"temperature": 2.0},
    {"temperature": 1.0, "top_k": 20},
    {"temperature": 1.0, "top_p": 0.9},
    {"temperature": 2.0, "top_k": 20},
    {"temperature": 2.0, "top_p": 0.5},
)


def entropy(logits: torch.Tensor, temperature: float) -> float:
    """The mean over the drawn tokens of that of softmax(logits / T), in bits."""
    log_probs = softmax_ext.log_softmax(logits, -1, temperature=temperature)
    return -(log_probs.exp() * log_probs).sum(-1).mean().item() / torch.tensor(2.0).log().item()


def continued(tokenizer, model, prompt: str, tokens: int, seed: int, options: dict) -> tuple[str, float]:
    """The text that follows the prompt, and the entropy that its tokens were drawn at, before filtering."""
    inputs = tokenizer(prompt, return_tensors="pt")
    processor = softmax_ext.SamplingProcessor(generator=torch.Generator().manual_seed(seed), **options)
    result = model.generate(
        **inputs,
        max_new_tokens=tokens,
        do_sample=False,
        logits_processor=[processor],
        pad_token_id=tokenizer.eos_token_id,
        output_logits=True,
        return_dict_in_generate=True,
    )
    text = tokenizer.decode(result.sequences[0, inputs.input_ids.shape[-1] :], skip_special_tokens=True)
    return " ".join(text.split()), entropy(torch.cat(result.logits), options["temperature"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompt", nargs="?", default="The best way to learn a language is")
    parser.add_argument("--tokens", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-dir", type=Path, default=BUILD / "smollm2")
    arguments = parser.parse_args()
    try:
        tokenizer, model = smollm.load(arguments.data_dir)
    except wheels.DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except ImportError as error:
        print(f"error: {error}\nWhat to do: pip install transformers accelerate gguf", file=sys.stderr)
        return 1
    table = Table("options", f"{arguments.prompt} …", "bits")
    for options in SETTINGS:
        text, bits = continued(tokenizer, model, arguments.prompt, arguments.tokens, arguments.seed, options)
        table.add_row(", ".join(f"{name} {value}" for name, value in options.items()), text, f"{bits:.1f}")
        table.add_section()
    Console(width=None if sys.stdout.isatty() else 110).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
