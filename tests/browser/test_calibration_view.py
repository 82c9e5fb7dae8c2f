"""The view of calibration in a browser, against NumPy on the logits that the package brings."""

from pathlib import Path

import numpy as np
import pytest
import torch
from playwright.sync_api import expect
from test_views import Drag, output, shown

import softmax_ext.explorer

FIT_DOCUMENTS = 2509


@pytest.fixture(scope="module")
def documents():
    """Logits and labels of the documents shown."""
    path = Path(softmax_ext.explorer.__file__).parent / "data" / "newsgroups.pt"
    saved = torch.load(path, weights_only=True)
    return saved["logits"][FIT_DOCUMENTS:].double().numpy(), saved["labels"][FIT_DOCUMENTS:].long().numpy()


def measures(documents, temperature):
    """Calibration error and loss."""
    logits, labels = documents
    scaled = (logits - logits.max(1, keepdims=True)) / temperature
    probs = np.exp(scaled) / np.exp(scaled).sum(1, keepdims=True)
    confidence, is_right = probs.max(1), probs.argmax(1) == labels
    index = np.ceil(confidence * 15).clip(1, 15)
    gaps = [abs((is_right - confidence)[index == number].sum()) for number in range(1, 16)]
    return sum(gaps) / len(labels), -np.log(probs[np.arange(len(labels)), labels]).mean()


def test_error_and_loss_follow_the_temperature_during_a_drag(open_page, documents):
    page = open_page("calibration")
    was_ece, was_nll = measures(documents, 1)
    drag = Drag(page, page.get_by_role("slider", name="Temperature T"))
    for share in (0.15, 0.45, 0.55, 0.9):
        drag.to(share)
        temperature = float(page.get_by_label("Temperature T, as a number").input_value())
        ece, nll = measures(documents, temperature)
        expect(output(page, "ece")).to_have_text(f"{shown(100 * ece, 1)} % from {shown(100 * was_ece, 1)} %")
        expect(output(page, "nll")).to_have_text(f"{shown(nll, 3)} from {shown(was_nll, 3)}")
        expect(output(page, "after-verdict")).to_contain_text(f"calibration error {shown(100 * ece, 1)} %")
    drag.release()


def test_the_fitted_temperature_is_marked_and_one_button_away(open_page, documents):
    page = open_page("calibration?temperature=1")
    verdict = output(page, "before-verdict").text_content()
    assert output(page, "after-verdict").text_content() == verdict
    expect(page.get_by_text("fitted 1.", exact=False)).to_have_count(2)
    page.get_by_role("button", name="Fitted T").click()
    temperature = float(page.get_by_label("Temperature T, as a number").input_value())
    assert 1.6 < temperature < 1.9
    ece, _ = measures(documents, temperature)
    assert ece < 0.025
    expect(output(page, "after-verdict")).to_contain_text(f"calibration error {shown(100 * ece, 1)} %")
    expect(output(page, "before-verdict")).to_have_text(verdict)
