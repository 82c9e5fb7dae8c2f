"""What a call costs on a tiny tensor, where the work itself is nothing: ours beside torch's own.

    python -m benchmarks.calls

Prints the median time of a call, and its ratio to torch's function. ``torch.ops.aten`` is torch's own operator, called
by the way that ours is: what that way costs more than torch's Python binding, ours costs too.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

import softmax_ext
from benchmarks import results
from benchmarks.interleaved import machine, medians

COLUMNS = ("torch", "torch.ops.aten", "torch.ops.softmax_ext", "softmax_ext")


def forward(f: Callable, x: torch.Tensor) -> Callable[[], object]:
    return lambda: f(x, -1)


def backward(f: Callable, x: torch.Tensor, grad: torch.Tensor) -> Callable[[], object]:
    x = x.clone().requires_grad_()
    return lambda: torch.autograd.grad(f(x, -1), x, grad)


def loss(f: Callable, x: torch.Tensor, target: torch.Tensor) -> Callable[[], object]:
    x = x.clone().requires_grad_()
    return lambda: torch.autograd.grad(f(x, target), x)


def cases(x: torch.Tensor) -> dict[str, dict[str, Callable[[], object]]]:
    ops, aten = torch.ops.softmax_ext, torch.ops.aten
    grad, target = torch.randn_like(x), torch.zeros(x.shape[0], dtype=torch.int64)
    softmaxes = dict(zip(COLUMNS, (torch.softmax, aten.softmax, ops.softmax, softmax_ext.softmax), strict=True))
    losses = dict(
        zip(
            COLUMNS,
            (F.cross_entropy, aten.cross_entropy_loss, ops.cross_entropy, softmax_ext.cross_entropy),
            strict=True,
        )
    )
    return {
        "softmax forward": {name: forward(f, x) for name, f in softmaxes.items()},
        "softmax forward + backward": {name: backward(f, x, grad) for name, f in softmaxes.items()},
        "cross_entropy forward + backward": {name: loss(f, x, target) for name, f in losses.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=2, default=(1, 10), metavar=("ROWS", "LENGTH"))
    parser.add_argument("--repeats", type=int, default=15, help="batches per function, at least 9")
    parser.add_argument("--result", type=Path, default=Path("build/bench/calls"), help="without suffix")
    arguments = parser.parse_args()
    if arguments.repeats < 9:
        parser.error(f"expected at least 9 repeats, got {arguments.repeats}")
    torch.set_num_threads(1)
    about = [*machine().splitlines(), f"shape {tuple(arguments.shape)}, float32"]
    print(*about, "", sep="\n")
    print("| call | " + " | ".join(COLUMNS) + " |")
    print("| --- |" + " --- |" * len(COLUMNS))
    lines = []
    for name, functions in cases(torch.randn(*arguments.shape)).items():
        times = medians(functions, arguments.repeats)
        lines.append({"call": name, "seconds": times})
        cells = (f" {times[c] * 1e6:.2f} µs = {times[c] / times['torch']:.2f} × |" for c in COLUMNS)
        print(f"| {name} |" + "".join(cells))
    results.save(arguments.result, about, lines)


if __name__ == "__main__":
    main()
