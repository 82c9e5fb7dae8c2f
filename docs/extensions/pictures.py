"""The pictures of "Softmax in five minutes", drawn by matplotlib from what the operators return.

Each is drawn for a light and a dark page, as SVG with its letters as outlines: the same bytes each time, on a machine
without fonts too.
"""

import io
import math
from collections.abc import Callable

import matplotlib
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Patch

import softmax_ext
from softmax_ext.explorer import calibration as held_out

STYLE = {
    "svg.hashsalt": "softmax_ext",
    "svg.fonttype": "path",
    "font.size": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
}
INK = {"light": "#1f2328", "dark": "#e6e8ea"}
FAINT = {"light": "#d9dee3", "dark": "#3a4048"}
BLUE, ORANGE, RED, GREEN, GREY = "#3f7fc1", "#e08a2e", "#d9513c", "#2f9e68", "#8a94a0"

CLASSES = ["cat", "dog", "bird", "fish", "fox"]
LOGITS = torch.tensor([2.2, 1.7, 0.8, -0.1, -1.4], dtype=torch.float64)
SWEEP = torch.tensor([2.0, 1.2, 0.6, -0.3, -1.1], dtype=torch.float64)
WORDS = ["the", "a", "cat", "dog", "sat", "ran", "slept", "<eos>"]
WORD_LOGITS = torch.tensor([3.0, 2.5, 1.8, 1.2, 0.9, 0.6, 0.2, -0.4])


def _ink() -> str:
    return matplotlib.rcParams["text.color"]


def _minus(number: str) -> str:
    return number.replace("-", "−")


def entropy_in_bits(logits: torch.Tensor, temperature: float = 1.0) -> float:
    return softmax_ext.entropy(logits, 0, temperature=temperature, base=2).item()


def three_steps(figure: Figure) -> None:
    terms = (LOGITS - LOGITS.max()).exp()
    probs = softmax_ext.softmax(LOGITS, 0)
    steps = [
        ("1  logits z", LOGITS, "{:.1f}", GREY),
        ("2  exp(z − max)", terms, "{:.2f}", ORANGE),
        ("3  divided by their sum", 100 * probs, "{:.1f} %", BLUE),
    ]
    for axes, (title, values, label, colour) in zip(figure.subplots(1, 3), steps, strict=True):
        bars = axes.bar(CLASSES, values.tolist(), color=colour, width=0.7)
        axes.bar_label(bars, [_minus(label.format(value)) for value in values.tolist()], padding=2, fontsize=9.5)
        axes.set_title(title, fontsize=11)
        axes.axhline(0, color=_ink(), linewidth=0.8)
        axes.margins(y=0.14)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(axis="x", length=0)


def temperatures(figure: Figure) -> None:
    chosen = (0.3, 1.0, 5.0)
    grid = figure.add_gridspec(1, 2, width_ratios=(7, 4))
    panels = grid[0].subgridspec(1, 3).subplots(sharey=True)
    for axes, temperature, colour in zip(panels, chosen, (RED, BLUE, GREEN), strict=True):
        probs = 100 * softmax_ext.softmax(SWEEP, 0, temperature=temperature)
        bars = axes.bar(range(1, 6), probs.tolist(), color=colour, width=0.75)
        axes.bar_label(bars, [f"{p:.0f}" for p in probs.tolist()], padding=2, fontsize=9)
        axes.set_title(f"T = {temperature:g}", fontsize=11)
        axes.set_xticks(range(1, 6), [_minus(f"{z:g}") for z in SWEEP.tolist()], fontsize=8)
        axes.set_xlabel("logit")
    panels[0].set_ylabel("probability, %")
    panels[0].set_ylim(0, 105)
    axes = figure.add_subplot(grid[1])
    temperatures = [10 ** (-2 + 4 * i / 160) for i in range(161)]
    axes.plot(temperatures, [entropy_in_bits(SWEEP, t) for t in temperatures], color=_ink(), linewidth=1.6)
    for temperature, colour in zip(chosen, (RED, BLUE, GREEN), strict=True):
        axes.plot(temperature, entropy_in_bits(SWEEP, temperature), "o", color=colour, markersize=8, zorder=3)
    axes.axhline(math.log2(5), color=GREY, linewidth=1, linestyle=(0, (4, 3)))
    axes.text(0.011, math.log2(5) + 0.04, "uniform: log₂ 5", color=GREY, fontsize=9)
    axes.set(xscale="log", xlabel="temperature T", ylabel="entropy, bits", ylim=(0, 2.6), xlim=(0.01, 100))
    axes.set_title("entropy", fontsize=11)


def naive_softmax(logits: torch.Tensor) -> torch.Tensor:
    terms = logits.exp()
    return terms / terms.sum(-1, keepdim=True)


def offsets(figure: Figure) -> None:
    """Which offset makes exp(z) / Σ exp(z) something else than softmax, in which dtype."""
    axes = figure.subplots()
    grid = torch.arange(-1000, 1001, 4, dtype=torch.float64)
    dtypes = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
    labels, colours = [], {"right": BLUE, "wrong": ORANGE, "NaN": RED}
    for row, (dtype, name, function) in enumerate(
        (dtype, name, function)
        for dtype in dtypes
        for name, function in (("exp(z) / Σ", naive_softmax), ("softmax_ext", lambda z: softmax_ext.softmax(z, -1)))
    ):
        place = row + 0.5 * (row // 2)
        labels.append((place, f"{str(dtype).removeprefix('torch.')}   {name}"))
        verdicts = _verdicts(function, (SWEEP + grid.unsqueeze(1)).to(dtype))
        begin = 0
        for end in range(1, len(verdicts) + 1):
            if end == len(verdicts) or verdicts[end] != verdicts[begin]:
                axes.barh(
                    place, 4 * (end - begin), left=float(grid[begin]) - 2, height=0.86, color=colours[verdicts[begin]]
                )
                begin = end
    axes.set_yticks([place for place, _ in labels], [label for _, label in labels])
    axes.invert_yaxis()
    axes.set(xlabel="a constant added to all five logits", xlim=(-1000, 1000))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    handles = [Patch(color=colour, label=name) for name, colour in colours.items()]
    axes.legend(handles=handles, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)


def _verdicts(function: Callable, logits: torch.Tensor) -> list[str]:
    """Of each row, whether the result is the softmax of these very logits, as rounded to their dtype."""
    probs, exact = function(logits).double(), torch.softmax(logits.double(), -1)
    allowed = 8 * torch.finfo(logits.dtype).eps * exact.clamp(min=0.01)
    is_right = ((probs - exact).abs() <= allowed).all(-1).tolist()
    is_nan = probs.isnan().any(-1).tolist()
    return ["NaN" if nan else "right" if right else "wrong" for nan, right in zip(is_nan, is_right, strict=True)]


def cross_entropies(figure: Figure) -> None:
    left, right = figure.subplots(1, 2, width_ratios=(2, 3))
    p = [i / 200 for i in range(1, 201)]
    left.plot(p, [-math.log(x) for x in p], color=BLUE, linewidth=1.8)
    probs = softmax_ext.softmax(LOGITS, 0)
    target = 1
    loss = softmax_ext.cross_entropy(LOGITS, torch.tensor(target)).item()
    left.plot(probs[target].item(), loss, "o", color=ORANGE, markersize=8)
    left.annotate(
        f"dog: {loss:.2f} nats", (probs[target].item(), loss), (10, 6), textcoords="offset points", fontsize=9.5
    )
    left.set(xlabel="probability of the true class", ylabel="loss −log p, nats", xlim=(0, 1), ylim=(0, 5))
    left.grid(axis="y", linewidth=0.8)
    logits = LOGITS.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(softmax_ext.cross_entropy(logits, torch.tensor(target)), logits)
    bars = right.bar(
        CLASSES, gradient.tolist(), color=[ORANGE if g < 0 else BLUE for g in gradient.tolist()], width=0.7
    )
    right.bar_label(bars, [_minus(f"{g:+.3f}") for g in gradient.tolist()], padding=3, fontsize=9.5)
    right.axhline(0, color=_ink(), linewidth=0.8)
    right.set_title("gradient by the logits, p − y, where dog is true", fontsize=11)
    right.set_yticks([])
    right.margins(y=0.16)
    right.spines[["left", "bottom"]].set_visible(False)
    right.tick_params(axis="x", length=0)


def draws(figure: Figure) -> None:
    settings = [
        ("T = 0.3", {"temperature": 0.3}),
        ("T = 1", {"temperature": 1.0}),
        ("T = 2", {"temperature": 2.0}),
        ("T = 1, top-k 3", {"temperature": 1.0, "top_k": 3}),
    ]
    panels = figure.subplots(1, 4, sharey=True)
    for axes, (title, options) in zip(panels, settings, strict=True):
        tokens, _ = softmax_ext.sample(WORD_LOGITS, num_samples=200, seed=0, **options)
        probs = softmax_ext.softmax(WORD_LOGITS, 0, temperature=options["temperature"])
        probs = probs.masked_fill(WORD_LOGITS.topk(options.get("top_k", 8)).values[-1] > WORD_LOGITS, 0)
        axes.bar(WORDS, tokens.bincount(minlength=8).tolist(), color=BLUE, width=0.75, label="drawn")
        expected = (200 * probs / probs.sum()).tolist()
        axes.plot(WORDS, expected, "o", color=_ink(), markersize=4.5, label="expected")
        axes.set_title(title, fontsize=11)
        axes.tick_params(axis="x", rotation=90, length=0)
    panels[0].set_ylabel("of 200 draws")
    panels[0].legend(frameon=False, fontsize=9.5)


def reliability(figure: Figure) -> None:
    """The demo's classifier, on documents that neither it nor the temperature was fitted on."""
    fit, shown = held_out.fitted(), held_out.held_out()[1]
    for axes, name, temperature in zip(
        figure.subplots(1, 2), ("As trained", f"At T = {fit.temperature:.2f}"), (1.0, fit.temperature), strict=True
    ):
        softmax_ext.plot_reliability(shown.logits, shown.labels, temperature=temperature, ax=axes, title=name)


#: Name, width and height in inches.
FIGURES: dict[str, tuple[Callable[[Figure], None], tuple[float, float]]] = {
    "three-steps": (three_steps, (9, 3)),
    "temperature": (temperatures, (10, 3.2)),
    "offsets": (offsets, (9, 3.9)),
    "cross-entropy": (cross_entropies, (9, 3.2)),
    "draws": (draws, (9.6, 3.2)),
}


def draw_all() -> dict[str, bytes]:
    """File name to SVG."""
    result = {
        f"{name}-{theme}.svg": _drawn(draw, size, theme) for name, (draw, size) in FIGURES.items() for theme in INK
    }
    # What plot_reliability draws is on white.
    result["reliability.svg"] = _drawn(reliability, (9.6, 6.2), "light", background="white")
    return result


def _drawn(draw: Callable, size: tuple[float, float], theme: str, background: str = "none") -> bytes:
    inked = ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color")
    with matplotlib.rc_context({**STYLE, **dict.fromkeys(inked, INK[theme]), "grid.color": FAINT[theme]}):
        figure = Figure(figsize=size, layout="constrained", facecolor=background)
        draw(figure)
        for axes in figure.axes:
            axes.set_facecolor(background)
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue()
