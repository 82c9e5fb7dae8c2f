"""The example that writes softmax three times."""

import sys
from pathlib import Path

import pytest
import torch

import softmax_ext

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples import three_layers

FIGURES = ["0.5844", "0.2626", "0.1068", "0.0355", "0.0107"]


def test_the_three_agree_and_show_the_correct_figures(capsys):
    assert three_layers.main() == 0
    lines = capsys.readouterr().out.splitlines()
    for name in ("plain Python", "NumPy", "softmax_ext"):
        line = next(line for line in lines if line.strip().startswith(name))
        assert line.removeprefix(f"{name:>20}").split()[:5] == FIGURES
    assert any(line.startswith("The three agree") for line in lines)


def test_a_layer_that_is_off_by_a_hundred_roundings_is_an_error(capsys, monkeypatch):
    def off(logits):
        return softmax_ext.softmax(torch.tensor(logits, dtype=torch.float64), 0) * (1 + 1e-14)

    monkeypatch.setattr(three_layers, "in_torch", off)
    assert three_layers.main() == 1
    assert "DIFFER" in capsys.readouterr().out


def test_a_softmax_has_one_temperature_and_the_printed_figures_have_several():
    probs = softmax_ext.softmax(torch.tensor(three_layers.LOGITS, dtype=torch.float64), 0, temperature=1.7)
    found = three_layers.temperatures(three_layers.LOGITS, probs.tolist())
    assert found == pytest.approx([1.7] * 4, rel=1e-12)
    printed = three_layers.temperatures(three_layers.LOGITS, three_layers.PRINTED)
    assert max(printed) / min(printed) > 2
