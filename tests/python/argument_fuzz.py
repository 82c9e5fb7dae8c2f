"""Random arguments, wrong ones too, for every overload of softmax_ext: what is refused is refused with a clear error, and
what is not is the same with other strides, again, and in shape and dtype on the meta device.

As a program it makes calls and prints a count for each overload and its findings, as JSON. Every call begins by writing
its number to --progress: where the process crashes, that is the one. ``--seed S --first I --calls 1`` repeats it.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import torch
from random_arguments import call_arguments
from torch import Tensor

import softmax_ext  # noqa: F401  (registers the operators)

#: What bad arguments may raise: each of these exactly, and with none of the words below in its message.
ERRORS = (TypeError, ValueError, IndexError, NotImplementedError, RuntimeError)
INTERNAL = ("INTERNAL ASSERT", "please report a bug", "vector::", "basic_string", "std::bad_alloc")
#: No call that makes sense here takes as much.
MEMORY = 2**32


def overloads() -> list[torch._ops.OpOverload]:
    schemas = [s for s in torch._C._jit_get_all_schemas() if s.name.startswith("softmax_ext::")]
    found = [
        getattr(getattr(torch.ops.softmax_ext, s.name.split("::")[1]), s.overload_name or "default") for s in schemas
    ]
    return sorted((overload for overload in found if overload._schema.arguments), key=str)


def described(arguments: dict) -> str:
    return ", ".join(
        f"{name}={value.dtype}{list(value.shape)} strides {list(value.stride()) if value.layout == torch.strided else '-'}"
        if isinstance(value, Tensor)
        else f"{name}={value!r:.60}"
        for name, value in arguments.items()
    )


def tensors_of(results) -> list[Tensor]:
    results = results if isinstance(results, tuple) else (results,)
    return [result for result in results if isinstance(result, Tensor)]


def copied(arguments: dict, function) -> dict:
    return {name: function(value) if isinstance(value, Tensor) else value for name, value in arguments.items()}


def is_plain(arguments: dict) -> bool:
    """Whether all tensors are strided memory of the CPU, which copies of other strides can stand for."""
    return all(
        value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_neg()
        and not value._is_zerotensor()
        for value in arguments.values()
        if isinstance(value, Tensor)
    )


def elsewhere(tensor: Tensor) -> Tensor:
    """A copy of other strides and offset."""
    if tensor.dim() == 0:
        return tensor.detach().clone()
    memory = tensor.new_zeros((*tensor.shape, 3)).flatten()
    view = memory.as_strided(
        tensor.shape, [3 * s for s in torch.empty(tensor.shape).stride()], 1 if memory.numel() else 0
    )
    return view.copy_(tensor.detach())


def same_bits(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x.nan_to_num(nan=7e3), y.nan_to_num(nan=7e3)) for x, y in zip(a, b, strict=True))


def finding_of(overload, arguments: dict) -> str | None:
    """Makes the call; returns what is wrong with what it did, and raises what the call raises."""
    writes = any(argument.is_write for argument in overload._schema.arguments)
    in_place = writes or arguments.get("gradient") == "inplace"
    has_seed = "seed" in arguments and arguments["seed"] is not None
    is_random = overload._schema.name == "softmax_ext::sample" and not has_seed
    before = copied(arguments, lambda tensor: tensor.detach().clone())
    results = tensors_of(overload(**arguments))
    if not is_plain(arguments) or in_place:
        return None
    for name, tensor in before.items():
        if isinstance(tensor, Tensor) and not same_bits([tensor], [arguments[name].detach()]):
            return f"{name} was written to"
    for result in results:
        if result.requires_grad and result.is_floating_point():
            inputs = [value for value in arguments.values() if isinstance(value, Tensor) and value.requires_grad]
            grads = torch.autograd.grad(result.sum(), inputs, retain_graph=True, allow_unused=True)
            if any(g is not None and g.shape != x.shape for g, x in zip(grads, inputs, strict=True)):
                return "a gradient is not of its input's shape"
    results = [result.detach() for result in results]
    if not is_random:
        # Memory that no kernel writes shows as NaN.
        torch.use_deterministic_algorithms(True)
        try:
            again = tensors_of(overload(**before))
        finally:
            torch.use_deterministic_algorithms(False)
        if not same_bits(results, again):
            return "the same call again has other bits"
        moved = tensors_of(overload(**copied(arguments, elsewhere)))
        for a, b in zip(results, moved, strict=True):
            if a.is_floating_point():
                close = 64 * max(torch.finfo(a.dtype).eps, arithmetic_eps(before))
                if not torch.allclose(a.double(), b.double(), rtol=close, atol=close * scale_of(a), equal_nan=True):
                    return f"other strides have other values: {a.flatten()[:4].tolist()}, {b.flatten()[:4].tolist()}"
    if overload._schema.name != "softmax_ext::fit_temperature":  # its result is numbers
        of_meta = tensors_of(overload(**copied(before, lambda tensor: tensor.to("meta"))))
        if [(r.shape, r.dtype) for r in of_meta] != [(r.shape, r.dtype) for r in results]:
            return f"on meta {[(list(r.shape), r.dtype) for r in of_meta]}, on the CPU {[(list(r.shape), r.dtype) for r in results]}"
    return None


def arithmetic_eps(arguments: dict) -> float:
    floats = [v.dtype for v in arguments.values() if isinstance(v, Tensor) and v.is_floating_point()]
    return torch.finfo(torch.float32 if any(dtype != torch.float64 for dtype in floats) else torch.float64).eps


def scale_of(result: Tensor) -> float:
    finite = result.double()[result.isfinite()]
    return max(1.0, finite.abs().max().item()) if finite.numel() else 1.0


def run(
    of_schemas: list[torch._ops.OpOverload], seed: int, first: int, calls: int, progress: Path | None = None
) -> dict:
    """Calls number ``first`` and those after it: how many there were of each overload, how many were refused, and what is
    wrong."""
    counts: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    findings = []
    warnings.simplefilter("ignore")
    for index in range(first, first + calls):
        overload = of_schemas[index % len(of_schemas)]
        rng = random.Random(f"{seed}/{index}")
        torch.manual_seed(rng.randrange(2**31))
        arguments = call_arguments(overload, rng)
        call = f"{overload}({described(arguments)}), --seed {seed} --first {index} --calls 1"
        if progress is not None:
            progress.write_text(f"{index} {call}")
        counts[str(overload)] += 1
        try:
            finding = finding_of(overload, arguments)
        except Exception as error:
            is_refused = type(error) in ERRORS and str(error) and not any(words in str(error) for words in INTERNAL)
            refused[str(overload)] += bool(is_refused)
            finding = None if is_refused else f"{type(error).__name__}: {error}"
        if finding:
            findings.append(f"{call}: {finding[:600]}")
    return {"counts": counts, "refused": refused, "findings": findings}


def in_a_process(seed: int, calls: int, program: str = __file__) -> dict:
    """What :func:`run` returns of that many calls, made by another process, which may crash: that is a finding too."""
    report = {"counts": Counter(), "refused": Counter(), "findings": []}
    first = 0
    with tempfile.TemporaryDirectory() as folder:
        progress = Path(folder) / "progress"
        while first < calls:
            numbers = {"--seed": seed, "--first": first, "--calls": calls - first, "--progress": progress}
            options = [str(word) for option in numbers.items() for word in option]
            process = subprocess.run([sys.executable, program, *options], capture_output=True, text=True)
            if process.returncode == 0:
                part = json.loads(process.stdout)
                for name in report:
                    report[name] += Counter(part[name]) if isinstance(report[name], Counter) else part[name]
                break
            if not progress.exists():
                raise RuntimeError(f"argument_fuzz: the process made no call:\n{process.stderr}")
            # Those before it are not counted, as their report is lost.
            index, call = progress.read_text().split(" ", 1)
            report["findings"].append(f"{call}: exit status {process.returncode}\n{process.stderr[-600:]}")
            first = int(index) + 1
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--progress", type=Path)
    arguments = parser.parse_args()
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    report = run(overloads(), arguments.seed, arguments.first, arguments.calls, arguments.progress)
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
