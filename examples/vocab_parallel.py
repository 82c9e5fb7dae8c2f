"""Trains a byte-level language model whose head is split over processes, and compares it with one process at every step.

    torchrun --nproc-per-node 3 -m examples.vocab_parallel

Each process holds some of the 256 rows of the head, and of the logits no more than those. Its text is the language
reference that comes with Python (pydoc_data.topics, 460 kB), or --text FILE. Everything is in float64, so that the two
can be told from each other: they differ by rounding alone. At the end the processes continue a text together.
"""

import argparse
import itertools
import sys
from pathlib import Path
from pydoc_data import topics

import torch
import torch.distributed as dist
from torch import Tensor

import softmax_ext
from softmax_ext.distributed import vocab_parallel_linear_cross_entropy, vocab_parallel_sample

CLASSES = 256
CONTEXT = 12
#: What sums of 1e5 terms of float64 in another order may differ by, over some hundred steps.
CLOSE = 1e-9


class Trunk(torch.nn.Module):
    """From the last bytes to the features of the next one."""

    def __init__(self, features: int = 64):
        super().__init__()
        self.embedding = torch.nn.Embedding(CLASSES, 16)
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(16 * CONTEXT, 128), torch.nn.GELU(), torch.nn.Linear(128, features), torch.nn.GELU()
        )

    def forward(self, context: Tensor) -> Tensor:
        return self.layers(self.embedding(context).flatten(1))


def bytes_of(path: Path | None) -> Tensor:
    text = path.read_bytes() if path else "\n".join(topics.topics[name] for name in sorted(topics.topics)).encode()
    return torch.frombuffer(bytearray(text), dtype=torch.uint8).long()


def batches(text: Tensor, steps: int, size: int = 128):
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        places = torch.randint(len(text) - CONTEXT, (size,), generator=generator)
        windows = text[places[:, None] + torch.arange(CONTEXT + 1)]
        yield windows[:, :-1], windows[:, -1]


def initial() -> tuple[Trunk, Tensor]:
    torch.manual_seed(0)
    trunk = Trunk().double()
    return trunk, torch.randn(CLASSES, 64, dtype=torch.float64) * 0.1


def train(trunk: Trunk, head: Tensor, loss_of, text: Tensor, steps: int) -> list[float]:
    optimizer = torch.optim.Adam([*trunk.parameters(), head], lr=3e-3)
    losses = []
    for context, following in batches(text, steps):
        optimizer.zero_grad()
        loss = loss_of(trunk(context), head, following)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def continued(trunk: Trunk, head: Tensor, first: int, prompt: bytes, count: int) -> bytes:
    """Every process draws the same bytes, each from its own classes."""
    written = list(prompt.rjust(CONTEXT))
    with torch.no_grad():
        for step in range(count):
            features = trunk(torch.tensor([written[-CONTEXT:]]))
            drawn, _ = vocab_parallel_sample(features @ head.T, vocab_start=first, temperature=0.6, seed=step)
            written.append(int(drawn))
    return bytes(written[CONTEXT - len(prompt) :])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--text", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    text = bytes_of(arguments.text)

    # Uneven on purpose: the first process takes half of what the others do.
    ends = [0, *(CLASSES * (2 * i + 1) // (2 * ranks - 1) for i in range(ranks))]
    first, last = list(itertools.pairwise(ends))[rank]
    trunk, head = initial()
    shard = head[first:last].clone().requires_grad_()

    def loss_of_shards(features: Tensor, shard: Tensor, following: Tensor) -> Tensor:
        return vocab_parallel_linear_cross_entropy(
            features, shard, following, vocab_start=first, vocab_size=CLASSES, label_smoothing=0.05, z_loss=1e-4
        )

    losses = train(trunk, shard, loss_of_shards, text, arguments.steps)
    sample = continued(trunk, shard, first, b"The statement", 160)

    whole_trunk, whole_head = initial()
    whole_head.requires_grad_()

    def loss_of_one(features: Tensor, head: Tensor, following: Tensor) -> Tensor:
        return softmax_ext.linear_cross_entropy(features, head, following, label_smoothing=0.05, z_loss=1e-4)

    expected = train(whole_trunk, whole_head, loss_of_one, text, arguments.steps)
    of_losses = max(abs(a - b) for a, b in zip(losses, expected, strict=True))
    of_head = (shard - whole_head[first:last]).abs().max().item()
    of_trunk = max(
        (a - b).abs().max().item() for a, b in zip(trunk.parameters(), whole_trunk.parameters(), strict=True)
    )
    differences = torch.tensor([of_losses, of_head, of_trunk], dtype=torch.float64)
    dist.all_reduce(differences, dist.ReduceOp.MAX)

    if rank == 0:
        print(f"{ranks} processes with {[b - a for a, b in itertools.pairwise(ends)]} classes of {CLASSES}")
        print(f"{'step':>6}{'split':>22}{'one process':>22}")
        shown = sorted({0, *range(49, arguments.steps, 50), arguments.steps - 1})
        for step in shown:
            print(f"{step + 1:>6}{losses[step]:>22.15f}{expected[step]:>22.15f}")
        names = ("losses", "head", "trunk")
        print(
            "largest difference: " + ", ".join(f"{n} {d:.1e}" for n, d in zip(names, differences.tolist(), strict=True))
        )
        print(sample.decode(errors="replace"))
    dist.barrier()  # no process leaves while another one is connected to it
    dist.destroy_process_group()
    return 0 if differences.max() < CLOSE else 1


if __name__ == "__main__":
    sys.exit(main())
