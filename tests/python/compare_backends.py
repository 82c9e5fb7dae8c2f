"""Compares every element that the kernels yield on a GPU with what they yield on the CPU executor.

    SOFTMAX_EXT_LIBRARY=…/libsoftmax_ext_simt.so python compare_backends.py write outputs.pt
    SOFTMAX_EXT_LIBRARY=…/libsoftmax_ext.so python compare_backends.py compare outputs.pt

One source, two machines: they differ in the last bits of exp2 and log2 alone. Exits with 1 if an element is further off.
"""

import argparse
import collections
import sys

import torch
from backend import ON_EXECUTOR, lengths_at_bounds
from torch import Tensor

import softmax_ext

LONGEST = 20_000
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def outputs(device: str) -> dict[str, tuple[Tensor, Tensor]]:
    """By name, dtype and length: what an operator yields, and the largest term that each row of it is made of."""
    generator = torch.Generator().manual_seed(0)
    results = {}
    for dtype in DTYPES:
        for length in lengths_at_bounds(dtype.itemsize, LONGEST):
            shape = (3, length) if length < 10_000 else (1, length)
            logits = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
            grad = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).to(device)
            target = torch.randint(length, shape[:1], generator=generator).to(device)
            x = logits.to(device).requires_grad_()
            values = {
                "softmax": softmax_ext.softmax(x, 1, temperature=0.7),
                "log_softmax": softmax_ext.log_softmax(x, 1),
                "logsumexp": softmax_ext.logsumexp(x, 1),
                "cross_entropy": softmax_ext.cross_entropy(x, target, reduction="none"),
                "entropy": softmax_ext.entropy(x, 1),
                "masked_softmax": softmax_ext.masked_softmax(x, torch.arange(length, device=device) % 3 != 1, 1),
            }
            for name, value in values.items():
                upstream = grad if value.shape == grad.shape else grad[:, 0].to(value.dtype)
                (gradient,) = torch.autograd.grad(value, x, upstream)
                terms = {"log_softmax": upstream}.get(name, gradient)
                if name in ("softmax", "masked_softmax"):
                    terms = value * upstream
                results[f"{name}, {dtype}, {length}"] = of_row(value, value)
                results[f"{name} backward, {dtype}, {length}"] = of_row(gradient, terms)
    return results


def of_row(value: Tensor, terms: Tensor) -> tuple[Tensor, Tensor]:
    """A gradient may be a small difference of large terms, whose errors are those of the terms."""
    largest = torch.maximum(value.abs().amax(-1, keepdim=True), terms.abs().amax(-1, keepdim=True))
    return value.detach().cpu(), largest.detach().cpu()


def compare(expected: dict[str, tuple[Tensor, Tensor]], actual: dict[str, tuple[Tensor, Tensor]]) -> bool:
    """Prints a line per operator and dtype: the largest difference, in units of the row's largest term."""
    largest = collections.defaultdict(float)
    same, total = collections.Counter(), collections.Counter()
    assert expected.keys() == actual.keys()
    for key, (wanted, terms) in expected.items():
        got, _ = actual[key]
        assert got.shape == wanted.shape, key
        assert got.dtype == wanted.dtype, key
        assert not got.isnan().any(), key
        scale = terms.double().clamp(min=1e-30)
        error = ((got.double() - wanted.double()).abs() / scale).max().item()
        kind = key.rsplit(", ", 1)[0]
        largest[kind] = max(largest[kind], error / torch.finfo(wanted.dtype).eps)
        same[kind] += (got == wanted).sum().item()
        total[kind] += got.numel()
    is_close = True
    for kind, error in largest.items():
        print(f"{kind}: {100 * same[kind] / total[kind]:.2f} % are the same bits, largest difference {error:.1f} eps")
        is_close = is_close and error <= 8
    return is_close


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["write", "compare"])
    parser.add_argument("file")
    arguments = parser.parse_args()
    if arguments.what == "write":
        if not ON_EXECUTOR:
            parser.error(f"expected SOFTMAX_EXT_LIBRARY to name the executor's library, got {softmax_ext.library_path}")
        torch.save(outputs("cpu"), arguments.file)
    else:
        sys.exit(not compare(torch.load(arguments.file), outputs("cuda")))


if __name__ == "__main__":
    main()
