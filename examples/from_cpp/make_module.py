"""Saves a small classifier as TorchScript, for main.cpp: ``python make_module.py classifier.pt``."""

import sys

import torch
from torch import Tensor, nn

import softmax_ext  # noqa: F401  # registers the operators


class Classifier(nn.Module):
    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(features, 32), nn.ReLU(), nn.Linear(32, classes))

    def forward(self, features: Tensor) -> Tensor:
        return torch.ops.softmax_ext.softmax(self.layers(features), -1)

    @torch.jit.export
    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        return torch.ops.softmax_ext.cross_entropy(self.layers(features), labels)


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.jit.script(Classifier(20, 5)).save(sys.argv[1])
