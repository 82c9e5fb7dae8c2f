"""Softmax three times: in plain Python, in NumPy, and as this package's operator; what agrees, and what cannot.

``python -m examples.three_layers``
"""

import math
import sys

import numpy as np
import torch

import softmax_ext

LOGITS = [2.0, 1.2, 0.3, -0.8, -2.0]

#: What the lesson "turn raw logits into calibrated probabilities" prints beside these logits.
PRINTED = [0.6439, 0.2896, 0.0466, 0.0155, 0.0044]


def in_python(logits: list[float]) -> list[float]:
    top = max(logits)
    exponentials = [math.exp(z - top) for z in logits]
    total = math.fsum(exponentials)
    return [e / total for e in exponentials]


def in_numpy(logits: list[float]) -> np.ndarray:
    z = np.asarray(logits)
    exponentials = np.exp(z - z.max())
    return exponentials / exponentials.sum()


def in_torch(logits: list[float]) -> torch.Tensor:
    return softmax_ext.softmax(torch.tensor(logits, dtype=torch.float64), dim=0)


def temperatures(logits: list[float], probs: list[float]) -> list[float]:
    """The T of each pair of neighbours, from log(p_i / p_j) = (z_i − z_j) / T. A softmax has the same T for all."""
    pairs = zip(logits, logits[1:], probs, probs[1:], strict=False)
    return [(z - next_z) / math.log(p / next_p) for z, next_z, p, next_p in pairs]


def largest_difference(probs: list[float], others: list[float]) -> float:
    """Relative, in units of the rounding of float64."""
    return max(abs(p - q) / p for p, q in zip(probs, others, strict=True)) / 2.0**-53


def main() -> int:
    layers = {
        "plain Python": in_python(LOGITS),
        "NumPy": in_numpy(LOGITS).tolist(),
        "softmax_ext": in_torch(LOGITS).tolist(),
    }
    print(f"{'logit':>20}" + "".join(f"{z:>9.1f}" for z in LOGITS) + f"{'Σp':>22}")
    for name, probs in layers.items():
        print(f"{name:>20}" + "".join(f"{p:>9.4f}" for p in probs) + f"{math.fsum(probs):>22.17f}")

    # Each is at most a few roundings from the exact value: of a shift, an exponential, a sum of five and a division.
    allowed = 2 * 8
    found = max(largest_difference(layers["plain Python"], probs) for probs in layers.values())
    agree = found <= allowed
    print(f"\nThe three {'agree' if agree else 'DIFFER'}: at most {found:.1f} roundings apart, {allowed} allowed.")

    print("\nThe lesson prints other numbers beside these logits:")
    print(f"{'printed there':>20}" + "".join(f"{p:>9.4f}" for p in PRINTED) + f"{math.fsum(PRINTED):>22.4f}")
    print(
        "They are the softmax of these logits at no temperature. From log(p_i / p_j) = (z_i − z_j) / T, each pair of\n"
        "neighbours has its own T there, where a softmax has one:"
    )
    for name, probs in (("printed there", PRINTED), ("softmax_ext", layers["softmax_ext"])):
        print(f"{name:>20}  T = " + ", ".join(f"{t:.3f}" for t in temperatures(LOGITS, probs)))
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
