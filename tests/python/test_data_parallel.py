"""Our losses in models that torch parallelizes over batches: DDP and FSDP2."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ranks import Ranks
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import softmax_ext

CLOSE = {"rtol": 1e-12, "atol": 1e-12}
CLASSES, FEATURES, BATCH = 11, 6, 4


@pytest.fixture(scope="module")
def ranks():
    with Ranks(3) as ranks:
        yield ranks


class Classifier(torch.nn.Module):
    def __init__(self, loss: str):
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Linear(FEATURES, 8), torch.nn.Tanh())
        if loss == "linear":
            self.head = torch.nn.Identity()
            self.loss = softmax_ext.nn.LinearCrossEntropyLoss(8, CLASSES, bias=True, label_smoothing=0.1, chunk=3)
        else:
            self.head = torch.nn.Linear(8, CLASSES)
            temperature = torch.nn.Parameter(torch.tensor([1.5]))
            self.loss = softmax_ext.nn.CrossEntropyLoss(label_smoothing=0.1, temperature=temperature, gradient=loss)

    def forward(self, x, target):
        return self.loss(self.head(self.body(x)), target)


def check(group, wrapper: str, loss: str) -> None:
    model = Classifier(loss).double()
    reference = Classifier(loss).double()
    reference.load_state_dict(model.state_dict())
    x = torch.randn(group.size() * BATCH, FEATURES, dtype=torch.float64)
    target = torch.randint(0, CLASSES, (len(x),))
    expected = reference(x, target)
    expected.backward()
    if wrapper == "DDP":
        parallel = DistributedDataParallel(model, process_group=group)
    else:
        parallel = fully_shard(model, mesh=DeviceMesh.from_group(group, "cpu"))
    rows = slice(group.rank() * BATCH, (group.rank() + 1) * BATCH)
    result = parallel(x[rows], target[rows])
    result.backward()
    mean = result.detach().clone()
    torch.distributed.all_reduce(mean, group=group)
    torch.testing.assert_close(mean / group.size(), expected, **CLOSE)
    for (name, parameter), (_, whole) in zip(model.named_parameters(), reference.named_parameters(), strict=True):
        gradient = parameter.grad
        gradient = gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient
        torch.testing.assert_close(gradient, whole.grad, **CLOSE, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("wrapper", ["DDP", "FSDP2"])
@pytest.mark.parametrize("loss", ["recompute", "forward", "inplace", "linear"])
def test_gradients_are_those_of_the_whole_batch(ranks, wrapper, loss):
    ranks.run(check, 3, wrapper, loss)


def test_the_example_matches_one_process():
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "examples.vocab_parallel", "--steps", "20"]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 processes with [85, 171] classes of 256" in done.stdout
    assert "largest difference: losses" in done.stdout
