"""The pictures: two loss curves with their difference, the confusion matrix, and the classifier's calibration. No screen
is needed.

``python -m examples.newsgroups.pictures PATH`` draws the last one from the logits that are part of the package.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

import softmax_ext
from examples.newsgroups.agreement import relative_difference
from softmax_ext.explorer import calibration as in_package

OURS, TORCH, ROUNDING_ONLY = "#0b4f9e", "#f2a33a", "#c4c4c4"


def draw_loss_curves(
    losses: Tensor, torch_losses: Tensor, exact_losses: Tensor, steps_per_epoch: int, path: Path
) -> None:
    steps = np.arange(1, len(losses) + 1)
    figure = Figure(figsize=(9, 7), layout="constrained")
    curves, differences = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    curves.plot(steps, torch_losses.numpy(), color=TORCH, linewidth=5, label="torch.nn.functional.cross_entropy")
    curves.plot(steps, losses.numpy(), color=OURS, linewidth=1.3, label="torch.ops.softmax_ext.cross_entropy")
    curves.set_title("Training a classifier on 20 Newsgroups with either cross-entropy")
    curves.set(yscale="log", xlim=(0, len(losses) + 1), ylabel="loss of the batch, nats")
    curves.legend(frameon=False)

    # A logarithmic axis has no place for zero: steps whose losses are the same number have no dot.
    for reference, color, size, label in (
        (exact_losses, ROUNDING_ONLY, 10, "torch, and torch with its loss in float64 (rounding alone)"),
        (losses, OURS, 5, "softmax_ext, and torch"),
    ):
        difference = relative_difference(torch_losses, reference).numpy()
        dots = difference > 0
        differences.plot(steps[dots], difference[dots], ".", markersize=size, color=color, label=label)
    differences.set(yscale="log", xlabel="step (a line after each epoch)", ylabel="relative difference")
    differences.set_title("How far apart two trainings are, where their losses are not equal", fontsize=11)
    differences.legend(frameon=False, loc="upper left")
    for axes in (curves, differences):
        axes.spines[["top", "right"]].set_visible(False)
        for epoch_end in range(steps_per_epoch, len(losses), steps_per_epoch):
            axes.axvline(epoch_end + 0.5, color="#e4e4e4", linewidth=1, zorder=0)
    figure.savefig(path, dpi=130, metadata={"Software": None})


def draw_confusion(logits: Tensor, labels: Tensor, class_names: list[str], path: Path) -> None:
    classes = len(class_names)
    predicted = logits.argmax(-1)
    counts = torch.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)
    percent = (100 * counts / counts.sum(1, keepdim=True)).numpy()

    figure = Figure(figsize=(11, 10), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(percent, cmap="Blues", vmin=0, vmax=100)
    for row, col in zip(*(percent >= 1).nonzero(), strict=True):
        share = percent[row, col]
        color = "white" if share > 55 else "black"
        axes.text(col, row, f"{share:.0f}", ha="center", va="center", fontsize=8, color=color)
    axes.set_xticks(range(classes), class_names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(classes), class_names)
    axes.set(xlabel="predicted newsgroup", ylabel="true newsgroup")
    accuracy = (predicted == labels).double().mean().item()
    axes.set_title(
        f"Where the {len(labels):,} test documents went, % of each newsgroup ({100 * accuracy:.1f} % are right)"
    )
    figure.colorbar(image, ax=axes, label="% of the true newsgroup's documents", shrink=0.7)
    figure.savefig(path, dpi=130, metadata={"Software": None})


def draw_calibration(logits: Tensor, labels: Tensor, temperature: float, path: Path) -> None:
    """Reliability diagrams of the same documents, as trained and at the fitted temperature."""
    accuracy = (logits.argmax(1) == labels).double().mean().item()
    figure = Figure(figsize=(10.6, 7), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12)
    for axes, name, t in zip(
        figure.subplots(1, 2),
        ("As trained", f"At T = {temperature:.2f}"),
        (1.0, temperature),
        strict=True,
    ):
        confidence = softmax_ext.softmax(logits, 1, temperature=t).amax(1).mean().item()
        title = f"{name}: {100 * confidence:.1f} % sure, {100 * accuracy:.1f} % right"
        softmax_ext.plot_reliability(logits, labels, temperature=t, ax=axes, title=title)
    figure.suptitle(f"A text classifier on {len(labels):,} held-out documents of 20 Newsgroups", fontsize=13)
    figure.savefig(path, dpi=130, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description="Draws the calibration of the classifier.")
    parser.add_argument("path", type=Path)
    shown = in_package.held_out()[1]
    draw_calibration(shown.logits, shown.labels, in_package.fitted().temperature, parser.parse_args().path)


if __name__ == "__main__":
    main()
