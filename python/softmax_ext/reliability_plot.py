"""The reliability diagram, with matplotlib where it is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import calibration, functional

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ACCURACY, COUNT, DIAGONAL, GRID = "#2a6fb0", "#8a94a0", "#30363d", "#e8ebee"
# Edge and face of the gaps: where the classifier claims more than it keeps, and where it claims less.
OVER, UNDER = ("#d9513c", "#f8dcd7"), ("#2f8f5b", "#cfe9da")


def plot_reliability(
    input: Tensor,
    target: Tensor,
    *,
    bins: int = 15,
    temperature: float | Tensor | None = None,
    from_logits: bool = True,
    ignore_index: int = -100,
    title: str | None = None,
    ax: Axes | None = None,
    generator: torch.Generator | None = None,
) -> Axes:
    """A reliability diagram: the accuracy of predictions by their confidence, in bins of equal width.

    A bar is as high as the accuracy in its bin; from there to the mean confidence the gap is hatched, in red where the
    classifier claims more than it keeps, in green where it claims less. The bars of a perfectly calibrated predictor end
    within the black ranges around the diagonal, in 95 % of cases: the fewer predictions, the wider. Below is the share of
    the predictions in each bin. In words: the accuracy, the calibration error (ECE) and what it would be if the
    predictions were perfect (:func:`softmax_ext.calibration_error_floor`), and the negative log-likelihood.

    Args:
        input, target, bins, temperature, from_logits, ignore_index: As for :func:`softmax_ext.reliability_curve`.
        title: Above the diagram.
        ax: Where to draw, with the shares below; a figure of its own if None.
        generator: Of the random numbers that the floor is made of; one with a fixed seed if None.

    Returns:
        The axes of the diagram; ``.figure.savefig(…)`` saves it.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch
        from mpl_toolkits.axes_grid1 import make_axes_locatable
    except ImportError as error:
        raise ImportError(
            "plot_reliability: expected matplotlib to be installed. Run 'pip install matplotlib'."
        ) from error

    options = {"temperature": temperature, "from_logits": from_logits, "ignore_index": ignore_index}
    curve = calibration.reliability_curve(input, target, bins=bins, **options)
    generator = generator or torch.Generator(input.device).manual_seed(0)
    error = calibration.calibration_error(input, target, bins=bins, **options).item()
    floor = calibration.calibration_error_floor(input, target, bins=bins, **options, generator=generator).item()
    nll = _mean_nll(input, target, **options)
    edges, confidence, accuracy, count = (values.cpu().numpy() for values in curve)
    total = int(count.sum())
    is_right = float((accuracy[count > 0] * count[count > 0]).sum() / total)

    if ax is None:
        figure = Figure(figsize=(5.4, 6.4), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.12, h_pad=0.25)
        ax = figure.subplots()
    histogram = make_axes_locatable(ax).append_axes("bottom", size="22%", pad=0.14, sharex=ax)
    width = 1 / bins
    centers = edges[:-1] + width / 2
    used = count > 0

    # What is inside is chance: the standard deviation of a mean of n draws with the bin's mean confidence.
    spread = 1.96 * (confidence[used] * (1 - confidence[used]) / count[used]) ** 0.5
    ax.plot((0, 1), (0, 1), color=DIAGONAL, linewidth=1.2, linestyle=(0, (4, 3)), zorder=4)
    ranges = ax.errorbar(
        confidence[used],
        confidence[used],
        yerr=spread,
        fmt="none",
        ecolor=DIAGONAL,
        elinewidth=1.1,
        capsize=2.5,
        zorder=5,
        label="where 95 % of a perfect predictor's bars end",
    )
    ax.bar(centers[used], accuracy[used], width * 0.92, color=ACCURACY, zorder=2)
    for sign, (edge, face) in ((1, OVER), (-1, UNDER)):
        gap = (confidence - accuracy) * sign
        shown = used & (gap > 0)
        ax.bar(
            centers[shown],
            gap[shown],
            width * 0.92,
            bottom=(accuracy if sign > 0 else confidence)[shown],
            facecolor=face,
            edgecolor=edge,
            hatch="////",
            linewidth=0.8,
            zorder=3,
        )

    handles = [
        Patch(color=ACCURACY, label=f"accuracy ({is_right:.1%} in all)"),
        Patch(facecolor=OVER[1], edgecolor=OVER[0], hatch="////", label="claims more than it keeps"),
        Patch(facecolor=UNDER[1], edgecolor=UNDER[0], hatch="////", label="claims less"),
        ranges,
    ]
    ax.legend(handles=handles, loc="upper left", frameon=False, fontsize=9)
    ax.text(
        0.97,
        0.04,
        f"ECE {error:.1%}\nECE if perfect {floor:.1%}\nNLL {nll:.3f}",
        transform=ax.transAxes,
        ha="right",
        va="bottom",
        fontsize=10,
        bbox={"boxstyle": "round,pad=0.45", "facecolor": "white", "edgecolor": "#d0d7de", "alpha": 0.92},
        zorder=6,
    )
    ax.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy", title=title or "")
    ax.set_aspect("equal")
    ax.tick_params(labelbottom=False)
    histogram.bar(centers, 100 * count / total, width * 0.92, color=COUNT)
    histogram.set(xlabel="confidence", ylabel="% of all")
    for axes in (ax, histogram):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
    return ax


def _mean_nll(
    input: Tensor, target: Tensor, temperature: float | Tensor | None, from_logits: bool, ignore_index: int
) -> float:
    if not from_logits:  # the softmax of logarithms is the probabilities again
        input = input.detach().log()
    loss = functional.cross_entropy(input.detach(), target, ignore_index=ignore_index, temperature=temperature)
    return loss.item()
