"""Saves the trained classifier with its softmax, and has a fresh process predict with it."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

import softmax_ext
from examples.newsgroups.agreement import ROUNDING, Check
from examples.newsgroups.model import HIDDEN, Predictor

ROOT = Path(__file__).resolve().parents[2]
TEMPERATURES = [1.0, 2.0]


def save_predictor(model: nn.Module, class_names: list[str], path: Path) -> None:
    with warnings.catch_warnings():
        # torch advises torch.export for new code; TorchScript is what C++ programs load.
        warnings.filterwarnings("ignore", message=".*torch.jit", category=DeprecationWarning)
        scripted = torch.jit.script(Predictor(model))
        torch.jit.save(scripted, path, _extra_files={"class_names.json": json.dumps(class_names)})


def typical_documents(logits: Tensor, labels: Tensor, class_names: list[str]) -> list[int]:
    """Rows of three documents of the science newsgroups, predicted with much, with middling and with little confidence."""
    science = [number for number, name in enumerate(class_names) if name.startswith("sci.")]
    rows = torch.isin(labels, torch.tensor(science)).nonzero().flatten()
    ordered = rows[logits[rows].softmax(-1).amax(-1).argsort(descending=True)]
    return [ordered[int(len(ordered) * share)].item() for share in (0.1, 0.5, 0.9)]


def predict_elsewhere(
    model: nn.Module, saved: Path, features: Tensor, texts: list[str], labels: list[int], folder: Path
) -> Check:
    """Prints the fresh process's answers, and compares them with this process's.

    The same kernels get the same numbers, so the probabilities are expected to be the same bits. Allowed is another order
    of summation in the last layer's dot products, should threads be shared out differently there.
    """
    documents, answers = folder / "documents.pt", folder / "probabilities.pt"
    torch.save({"features": features, "texts": texts, "labels": labels}, documents)
    command = [sys.executable, "-m", "examples.newsgroups.predict", "--library", softmax_ext.library_path]
    command += ["--model", saved, "--documents", documents, "--probabilities", answers, "--temperatures"]
    command += [str(temperature) for temperature in TEMPERATURES]
    sys.stdout.flush()
    subprocess.run(command, cwd=ROOT, check=True)

    elsewhere = torch.load(answers, weights_only=True)
    with torch.no_grad():
        logits = model(features)
        here = {t: torch.ops.softmax_ext.softmax(logits, -1, temperature=t) for t in TEMPERATURES}
    difference = max((elsewhere[t] - here[t]).abs().max().item() for t in TEMPERATURES)
    return Check("probabilities, fresh process", difference, HIDDEN * ROUNDING * logits.abs().max().item())
