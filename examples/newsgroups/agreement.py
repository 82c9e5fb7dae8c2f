"""Do our cross-entropy and torch's agree to rounding? On the same logits within a proved bound, over a training within a
measured one.

Over a training no useful bound can be proved: after the first step the weights differ already, and Adam, which divides by
the size of the gradient, lets differences grow. So what rounding alone does is measured, by a third training whose
loss is torch's in float64: from torch's in float32 it differs by rounding and nothing else.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

#: Rounding to float32 changes a number by at most this share of it.
ROUNDING = 2.0**-24
#: Different roundings part two trainings by different amounts. In twenty seeds the largest difference of ours from
#: torch's was at most 1.7 times that of torch's from float64; the rest is room for other machines.
CURVE_FACTOR = 5


@dataclass(frozen=True)
class Check:
    """The largest difference that was found, and the largest that is allowed."""

    name: str
    difference: float
    allowed: float

    @property
    def passed(self) -> bool:
        return self.difference <= self.allowed  # a NaN has not passed


def same_logits(logits: Tensor, target: Tensor) -> list[Check]:
    """Ours against torch's on the same float32 logits: the loss of each row, and the gradient of the mean.

    With C classes, u one rounding and D the largest distance of a logit from the maximum of its row, to first order:
    the exponential of a shifted logit has the relative error (D + 2)·u and the sum of C of them (C + D + 2)·u, which is
    the absolute error of its logarithm; the logarithm, the target's logit and their difference are rounded too. A row's
    loss is thus known within (C + 2·D + 3·loss + 3)·u, a probability and with it the gradient of the row within
    (C + 2·D + 8)·u. Two implementations may differ by twice that.
    """
    rows, classes = logits.shape
    distance = (logits.amax(1) - logits.amin(1)).max().item()
    row_error = (classes + 2 * distance + 8) * ROUNDING

    torch_losses = F.cross_entropy(logits, target, reduction="none")
    losses = torch.ops.softmax_ext.cross_entropy(logits, target, reduction=0)
    gradient = _gradient(torch.ops.softmax_ext.cross_entropy, logits, target)
    torch_gradient = _gradient(F.cross_entropy, logits, target)
    return [
        Check(
            "same logits, loss of a row",
            (losses - torch_losses).abs().max().item(),
            2 * (row_error + 3 * ROUNDING * torch_losses.max().item()),
        ),
        Check(
            "same logits, gradient of a row",  # that of the mean is divided by the number of rows
            rows * (gradient - torch_gradient).abs().max().item(),
            2 * row_error,
        ),
    ]


def same_curve(span: str, losses: Tensor, torch_losses: Tensor, exact_losses: Tensor) -> Check:
    """Ours against torch's, relative and per step, allowed by what rounding alone makes of torch's."""
    rounding = relative_difference(torch_losses, exact_losses).max().item()
    # Losses are float32: equal curves may still be parted by one rounding of each.
    allowed = CURVE_FACTOR * max(rounding, 2 * ROUNDING)
    return Check(f"loss curve, {span}", relative_difference(losses, torch_losses).max().item(), allowed)


def relative_difference(losses: Tensor, reference: Tensor) -> Tensor:
    return (losses - reference).abs() / reference


def _gradient(loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, target: Tensor) -> Tensor:
    logits = logits.detach().requires_grad_()
    return torch.autograd.grad(loss(logits, target), logits)[0]
