"""Compiles a small classifier ahead of time, for run_package.cpp: ``python make_package.py classifier.pt2 inputs.pt``.

The compiler is AOTInductor. The number of rows may vary: ``inputs.pt`` has others than the example that is traced here.
"""

import sys

import torch
from torch import Tensor, nn

import softmax_ext


class Classifier(nn.Module):
    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(features, 32), nn.ReLU(), nn.Linear(32, classes))

    def forward(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.layers(features)
        return softmax_ext.softmax(logits, -1), softmax_ext.cross_entropy(logits, labels)


def inputs(rows: int) -> list[Tensor]:
    return [torch.randn(rows, 20), torch.randint(5, (rows,))]


if __name__ == "__main__":
    torch.manual_seed(0)
    rows = torch.export.Dim("rows", min=2, max=4096)
    program = torch.export.export(Classifier(20, 5), tuple(inputs(8)), dynamic_shapes=({0: rows}, {0: rows}))
    torch._inductor.aoti_compile_and_package(program, package_path=sys.argv[1])
    torch.save(inputs(64), sys.argv[2])
