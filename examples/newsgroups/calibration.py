"""How confident the classifier is, how often it is right, and the temperature that brings the two together."""

from dataclasses import dataclass

import scipy.optimize
import torch
import torch.nn.functional as F
from rich.table import Table
from torch import Tensor

import softmax_ext
from examples.newsgroups.agreement import Check

#: Of the test documents, a third to fit the temperature on; what is reported is of the others.
FIT_SHARE = 1 / 3
#: A temperature this close changes no probability by more than 1e-4 of what separates the classes.
ALLOWED = 1e-4


@dataclass(frozen=True)
class Calibrated:
    scaling: softmax_ext.nn.TemperatureScaling
    fit: softmax_ext.TemperatureFit
    #: Documents that neither the classifier nor the temperature was fitted on.
    logits: Tensor
    labels: Tensor
    #: The fitted temperature beside that of another optimizer.
    check: Check


def calibrate(logits: Tensor, labels: Tensor, seed: int) -> Calibrated:
    """Fits the temperature on a part of the test documents, drawn at random as the table is sorted by newsgroup."""
    rows = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    fitted, others = rows.split([round(FIT_SHARE * len(rows)), len(rows) - round(FIT_SHARE * len(rows))])
    scaling = softmax_ext.nn.TemperatureScaling()
    fit = scaling.fit(logits[fitted], labels[fitted])
    elsewhere = _temperature_by_scipy(logits[fitted], labels[fitted])
    check = Check("fitted temperature, scipy and torch", abs(fit.temperature - elsewhere), ALLOWED)
    return Calibrated(scaling, fit, logits[others], labels[others], check)


def table_of(calibrated: Calibrated) -> Table:
    """Before and after, on the documents that nothing was fitted on."""
    temperature, logits, labels = calibrated.fit.temperature, calibrated.logits, calibrated.labels
    accuracy = (logits.argmax(1) == labels).double().mean().item()
    table = Table(title=f"\nOn {len(labels):,} held-out documents, {accuracy:.1%} of them right")
    table.add_column("softmax", no_wrap=True)
    for heading in ("mean\nconfidence", "ECE", "ECE if\nperfect", "NLL,\nnats", "Brier\nscore"):
        table.add_column(heading, justify="right")
    for name, t in (("as trained (T = 1)", 1.0), (f"T = {temperature:.3f}", temperature)):
        probs = softmax_ext.softmax(logits, 1, temperature=t)
        floor = softmax_ext.calibration_error_floor(logits, temperature=t, generator=torch.Generator().manual_seed(0))
        table.add_row(
            name,
            f"{probs.amax(1).mean().item():.1%}",
            f"{softmax_ext.calibration_error(logits, labels, temperature=t).item():.2%}",
            f"{floor.item():.2%}",
            f"{softmax_ext.cross_entropy(logits, labels, temperature=t).item():.3f}",
            f"{softmax_ext.brier_score(logits, labels, temperature=t).item():.3f}",
        )
    return table


def _temperature_by_scipy(logits: Tensor, labels: Tensor) -> float:
    logits = logits.double()

    def loss(inverse: float) -> float:
        return F.cross_entropy(logits * inverse, labels).item()

    return 1 / scipy.optimize.minimize_scalar(loss, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-9}).x
