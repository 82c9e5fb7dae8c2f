"""Draws words at three temperatures, and from the three most probable ones alone: what the lesson on sampling shows.

    python -m examples.sampling

The logits are a language model's for the next word. Below each word's bar of 200 draws stands what its probability makes
expect. The lower the temperature, the fewer different words come.
"""

import argparse
from pathlib import Path

import matplotlib
import torch
from rich.console import Console
from rich.table import Table

import softmax_ext

matplotlib.use("Agg")
import matplotlib.pyplot as plt

BUILD = Path(__file__).resolve().parents[1] / "build"
WORDS = ["the", "a", "cat", "dog", "sat", "ran", "slept", "<eos>"]
LOGITS = torch.tensor([3.0, 2.5, 1.8, 1.2, 0.9, 0.6, 0.2, -0.4])
DRAWS = 200
#: Title, and the options of softmax_ext.sample.
SETTINGS = {
    "T = 0.3": {"temperature": 0.3},
    "T = 1": {"temperature": 1.0},
    "T = 2": {"temperature": 2.0},
    "T = 1, top-k 3": {"temperature": 1.0, "top_k": 3},
}


def draw(options: dict, seed: int) -> tuple[list[int], list[float]]:
    """How often each word was drawn, and how often its probability makes expect."""
    indices, _ = softmax_ext.sample(LOGITS, num_samples=DRAWS, seed=seed, **options)
    probs = softmax_ext.softmax(LOGITS, 0, temperature=options["temperature"])
    if "top_k" in options:
        probs = torch.where(LOGITS.topk(options["top_k"]).values[-1] <= LOGITS, probs, 0)
        probs = probs / probs.sum()
    return indices.bincount(minlength=len(WORDS)).tolist(), (DRAWS * probs).tolist()


def table(title: str, counts: list[int], expected: list[float]) -> Table:
    kinds = sum(count > 0 for count in counts)
    result = Table(title=f"{title}: {kinds} of {len(WORDS)} words", box=None, title_justify="left")
    for heading, justify in (("", "left"), ("drawn", "right"), ("expected", "right"), ("", "left")):
        result.add_column(heading, justify=justify)
    for word, count, expectation in zip(WORDS, counts, expected, strict=True):
        result.add_row(word, str(count), f"{expectation:.1f}", "█" * round(count / 4))
    return result


def picture(results: dict[str, tuple[list[int], list[float]]], path: Path) -> None:
    figure, axes = plt.subplots(1, len(results), figsize=(3 * len(results), 3), sharey=True, layout="constrained")
    for axis, (title, (counts, expected)) in zip(axes, results.items(), strict=True):
        axis.bar(WORDS, counts, color="tab:blue", label="drawn")
        axis.plot(WORDS, expected, "o", color="black", markersize=4, label="expected")
        axis.set_title(title)
        axis.tick_params(axis="x", rotation=60)
    axes[0].set_ylabel(f"of {DRAWS} draws")
    axes[0].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, metadata={"Software": None})
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=BUILD / "sampling.png")
    arguments = parser.parse_args()
    console = Console()
    results = {title: draw(options, arguments.seed) for title, options in SETTINGS.items()}
    for title, (counts, expected) in results.items():
        console.print(table(title, counts, expected))
    picture(results, arguments.out)
    console.print(f"picture: {arguments.out}")


if __name__ == "__main__":
    main()
