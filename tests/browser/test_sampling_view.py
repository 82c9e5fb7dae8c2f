"""The view of sampling in a browser."""

import math

import harness
import torch
from playwright.sync_api import expect
from test_views import Drag, output, shown, softmax

LOGITS = [3.0, 2.5, 1.8, 1.2, 0.9, 0.6, 0.2, -0.4]


def expect_expected(page, probs):
    for index, p in enumerate(probs):
        cell = page.locator(f"[data-expected='{index}']")
        expect(cell).to_have_text("filtered" if p == 0 else f"{shown(100 * p, 2)} %")


def counts(page):
    return [int(cell) for cell in page.locator("[data-count]").all_text_contents()]


def test_the_lessons_three_temperatures_and_top_3(open_page):
    page = open_page("sampling")
    entropies = []
    for button, temperature in (("T = 0.3", 0.3), ("T = 1", 1), ("T = 2", 2)):
        page.get_by_role("button", name=button, exact=True).click()
        probs = softmax(LOGITS, temperature)
        expect_expected(page, probs)
        assert sum(counts(page)) == 200
        entropies.append(-math.fsum(p * math.log2(p) for p in probs))
        expect(output(page, "entropy")).to_have_text(f"{shown(entropies[-1], 3)} bits")
    assert entropies == sorted(entropies)
    page.get_by_role("button", name="T = 1", exact=True).click()
    page.get_by_label("top-k, as a number").fill("3")
    expect_expected(page, [*softmax(LOGITS[:3]), *[0] * 5])
    for index, figure in enumerate(("52.42 %", "31.79 %", "15.79 %")):
        expect(page.locator(f"[data-expected='{index}']")).to_have_text(figure)
    expect(output(page, "kept")).to_have_text("3 of 8")
    assert counts(page)[3:] == [0] * 5


def test_filters_follow_a_drag_before_the_button_is_let_go(open_page):
    page = open_page("sampling?temperature=2")
    drag = Drag(page, page.get_by_role("slider", name="min-p"))
    probs = softmax(LOGITS, 2)
    kept_counts = set()
    for share in (0.2, 0.3, 0.5, 0.7, 1.0):
        min_p = drag.to(share)
        kept = [p if p >= min_p * probs[0] else 0 for p in probs]
        kept_counts.add(sum(p > 0 for p in kept))
        expect_expected(page, [p / math.fsum(kept) for p in kept])
    drag.release()
    assert len(kept_counts) > 3


def test_drawing_again_takes_another_seed_and_an_address_the_same(open_page):
    page = open_page("sampling")
    before = counts(page)
    page.get_by_role("button", name="Draw again").click()
    expect(page.get_by_label("Seed")).to_have_value("1")
    page.wait_for_url("**seed=1")
    page.wait_for_load_state("networkidle")
    after = counts(page)
    assert before != after
    assert counts(open_page("sampling?seed=1")) == after


def test_a_models_logits_are_a_second_source_where_there_is_a_file_of_them(open_page, chromium, tmp_path):
    expect(open_page("sampling").get_by_role("navigation", name="Logits")).to_be_hidden()
    logits = torch.linspace(4, -8, 300, dtype=torch.float64)
    tokens = [f" word{index}" for index in range(300)]
    path = tmp_path / "next_token.pt"
    torch.save({"source": "a model", "prompt": "Once upon a", "tokens": tokens, "logits": logits}, path)
    with harness.explorer("--next-token", str(path)) as address:
        page = chromium.new_page()
        page.goto(f"{address}sampling")
        page.get_by_role("link", name="a model").click()
        expect(page.get_by_role("heading", name="What follows “Once upon a”")).to_be_visible()
        probs = softmax(logits.tolist())
        expect_expected(page, [*probs[:15], math.fsum(probs[15:])])
        expect(page.get_by_text("␣word0", exact=True)).to_be_visible()
        expect(page.get_by_text("285 others")).to_be_visible()
        assert sum(counts(page)) == 200
        page.get_by_label("top-k, as a number").fill("20")
        kept = [p / math.fsum(probs[:20]) for p in probs[:20]]
        expect_expected(page, [*kept[:15], math.fsum(kept[15:])])
        expect(output(page, "kept")).to_have_text("20 of 300")
        page.get_by_role("link", name="eight words").click()
        expect(page.get_by_role("heading", name="Draws of each token")).to_be_visible()
        page.close()
