"""One training run, and what it is measured by."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy.sparse import csr_matrix
from torch import Tensor, nn

from examples.newsgroups.features import dense
from examples.newsgroups.model import classifier

BATCH = 256
LEARNING_RATE = 5e-3

#: Logits ``[documents, classes]`` and class indices ``[documents]`` to the mean loss in nats.
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Run:
    model: nn.Module
    losses: Tensor  # [steps], float64, the loss of each batch before its step
    seconds: float


def steps_per_epoch(documents: int) -> int:
    return -(-documents // BATCH)


def train(
    loss: Loss,
    documents: csr_matrix,
    labels: Tensor,
    classes: int,
    *,
    epochs: int,
    seed: int,
    on_step: Callable[[float], None],
) -> Run:
    """Trains a new classifier. Initial weights and the order of the documents follow from ``seed`` alone."""
    torch.manual_seed(seed)
    model = classifier(documents.shape[1], classes)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    losses = []
    start = time.perf_counter()
    for _ in range(epochs):
        for batch in torch.randperm(len(labels)).split(BATCH):
            batch_loss = loss(model(dense(documents[batch.numpy()])), labels[batch])
            optimizer.zero_grad()
            batch_loss.backward()
            optimizer.step()
            losses.append(batch_loss.item())
            on_step(losses[-1])
    return Run(model.eval(), torch.tensor(losses, dtype=torch.float64), time.perf_counter() - start)


@torch.no_grad()
def logits_of(model: nn.Module, documents: csr_matrix) -> Tensor:
    """``[documents, classes]``."""
    rows = range(0, documents.shape[0], BATCH)
    return torch.cat([model(dense(documents[row : row + BATCH])) for row in rows])
