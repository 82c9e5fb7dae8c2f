"""The classifier, and what is exported of it."""

import torch
from torch import Tensor, nn

HIDDEN = 64


def classifier(words: int, classes: int) -> nn.Sequential:
    """``[documents, words]`` to logits ``[documents, classes]``.

    GELU because it is smooth. With ReLU a unit whose input is within rounding of zero may be on in one run and off in the
    next, which parts two loss curves by 1e-4 within an epoch, whichever cross-entropy they use; the comparison of
    ``agreement.py`` would measure that.
    """
    return nn.Sequential(
        nn.Linear(words, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, classes)
    )


class Predictor(nn.Module):
    """A trained classifier that answers with probabilities. It scripts: the operator is part of the saved graph."""

    def __init__(self, classifier: nn.Module):
        super().__init__()
        self.classifier = classifier

    def forward(self, documents: Tensor, temperature: float) -> Tensor:
        return torch.ops.softmax_ext.softmax(self.classifier(documents), -1, temperature=temperature)
