"""Each view in a browser: sliders are dragged with the mouse, numbers are read before the button is let go.

What the page shows is compared with a formula in plain Python, on the settings that its controls show.
"""

import math

import pytest
from playwright.sync_api import expect

ANIMALS = [2.20, 1.70, 0.80, -0.10, -1.40]
SWEEP = [2.0, 1.2, 0.6, -0.3, -1.1]


def softmax(logits, temperature=1.0):
    top = max(logits)
    exponentials = [math.exp((z - top) / temperature) for z in logits]
    return [e / math.fsum(exponentials) for e in exponentials]


def entropy_in_bits(probs):
    return -math.fsum(p * math.log2(p) for p in probs if p > 0)


def shown(value, digits):
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", "−")


def output(page, name):
    return page.locator(f"output[name='{name}']")


def expect_probabilities(page, probs, digits=1, within="main"):
    for index, p in enumerate(probs):
        cell = page.locator(f"{within} [data-probability='{index}']")
        expect(cell).to_have_text(f"{shown(100 * p, digits)} %")


class Drag:
    """The mouse on a slider's thumb, button down; ``to`` moves it to a share of the slider's length."""

    def __init__(self, page, slider, *, vertical=False):
        self.page, self.slider, self.vertical = page, slider, vertical
        slider.scroll_into_view_if_needed()
        self.box = slider.bounding_box()
        low, high, value = (float(slider.evaluate(f"slider => slider.{name}")) for name in ("min", "max", "value"))
        page.mouse.move(*self._place((value - low) / (high - low)))
        page.mouse.down()

    def _place(self, share):
        # The thumb's middle stays half a thumb inside the slider's ends.
        x, y, width, height = (self.box[name] for name in ("x", "y", "width", "height"))
        if self.vertical:
            return x + width / 2, y + height - 11 - share * (height - 22)
        return x + 11 + share * (width - 22), y + height / 2

    def to(self, share):
        self.page.mouse.move(*self._place(share))
        return float(self.slider.input_value())

    def release(self):
        self.page.mouse.up()


def test_the_explorer_shows_the_figures_of_five_animals(open_page):
    page = open_page("")
    expect_probabilities(page, softmax(ANIMALS))
    for index, figure in enumerate(("50.5 %", "30.6 %", "12.4 %", "5.1 %", "1.4 %")):
        expect(page.locator(f"[data-probability='{index}']")).to_have_text(figure)
    expect(output(page, "argmax")).to_have_text("cat")
    expect(output(page, "entropy")).to_have_text("1.698 of 2.322 bits")
    expect(output(page, "total")).to_have_text("1.000")
    expect(output(page, "logsumexp")).to_have_text(shown(math.log(sum(map(math.exp, ANIMALS))), 4))


def test_every_step_of_a_drag_moves_all_numbers_before_the_button_is_let_go(open_page):
    page = open_page("explorer")
    slider = page.get_by_role("slider", name="Logit of bird")
    drag = Drag(page, slider, vertical=True)
    values = []
    for step in range(1, 21):
        values.append(drag.to(0.5 + step / 50))
        logits = [*ANIMALS[:2], values[-1], *ANIMALS[3:]]
        probs = softmax(logits)
        expect_probabilities(page, probs)
        expect(output(page, "entropy")).to_contain_text(shown(entropy_in_bits(probs), 3))
        best = max(range(5), key=probs.__getitem__)
        expect(output(page, "argmax")).to_have_text(["cat", "dog", "bird", "fish", "fox"][best])
        expect(output(page, "loss")).to_have_text(f"loss {shown(-math.log(probs[best]), 4)}")
    drag.release()
    assert len(set(values)) > 15
    assert values[-1] > 4  # and so the bird has become the arg-max on the way


def test_the_temperature_of_the_explorer_is_a_drag_too(open_page):
    page = open_page("explorer")
    drag = Drag(page, page.get_by_role("slider", name="Temperature T"))
    for share in (0.45, 0.6, 0.8, 0.2):
        drag.to(share)
        temperature = float(page.get_by_label("Temperature T, as a number").input_value())
        expect_probabilities(page, softmax(ANIMALS, temperature))
    drag.release()


def test_classes_are_named_added_up_to_12_and_removed_down_to_one(open_page):
    page = open_page("explorer")
    page.get_by_label("Name of class 1").fill("lion")
    expect(output(page, "argmax")).to_have_text("lion")
    add = page.get_by_role("button", name="Add a class")
    for count in range(6, 13):
        add.click()
        expect_probabilities(page, softmax([*ANIMALS, *[0.0] * (count - 5)]))
    expect(add).to_be_disabled()
    expect(output(page, "entropy")).to_contain_text(shown(math.log2(12), 3))
    for left in range(11, 0, -1):
        page.get_by_role("button", name="Remove").nth(1).click()
        expect(page.get_by_role("slider", name="Logit of")).to_have_count(left)
    expect_probabilities(page, [1.0])
    expect(page.get_by_text("Softmax over one class is constant")).to_be_visible()
    expect(page.get_by_role("button", name="Remove")).to_be_disabled()
    add.click()
    expect(page.get_by_text("sigmoid of the difference")).to_be_visible()
    expect_probabilities(page, [1 / (1 + math.exp(-2.2)), 1 / (1 + math.exp(2.2))])


def test_the_true_class_sets_loss_and_gradient(open_page):
    page = open_page("explorer?temperature=2")
    page.get_by_label("True class").select_option("fox")
    probs = softmax(ANIMALS, 2)
    expect(output(page, "loss")).to_have_text(f"loss {shown(-math.log(probs[4]), 4)}")
    for index, p in enumerate(probs):
        gradient = (p - (index == 4)) / 2
        sign = "+" if gradient > 0 else ""
        expect(output(page, f"gradient-{index}")).to_have_text(sign + shown(gradient, 3))


@pytest.mark.parametrize("temperature", ["0.3", "0.5", "1", "2", "5"])
def test_the_temperature_view_shows_the_figures_of_its_temperatures(open_page, temperature):
    page = open_page("temperature")
    page.get_by_label("Temperature T, as a number").fill(temperature)
    bits, share = {
        "0.3": ("0.422", "0.18"),
        "0.5": ("0.975", "0.42"),
        "1": ("1.723", "0.74"),
        "2": ("2.131", "0.92"),
        "5": ("2.289", "0.99"),
    }[temperature]
    probs = softmax(SWEEP, float(temperature))
    assert shown(entropy_in_bits(probs), 3) == bits
    expect_probabilities(page, probs)
    expect(output(page, "entropy")).to_have_text(f"{bits} bits")
    expect(output(page, "entropy-share")).to_have_text(share)
    expect(page.get_by_text("log₂ 5 = 2.322 bits")).to_be_visible()


def test_the_dot_moves_along_the_curve_while_the_temperature_is_dragged(open_page):
    page = open_page("temperature")
    drag = Drag(page, page.get_by_role("slider", name="Temperature T"))
    regimes = []
    for share in (0.02, 0.4, 0.5, 0.62, 0.95):
        drag.to(share)
        temperature = float(page.get_by_label("Temperature T, as a number").input_value())
        probs = softmax(SWEEP, temperature)
        expect_probabilities(page, probs)
        expect(output(page, "entropy")).to_have_text(f"{shown(entropy_in_bits(probs), 3)} bits")
        regimes.append(output(page, "regime").text_content())
        # The dot lies on the curve: between the two points of it that are next to it.
        dot = page.locator("circle.dot")
        x, y = (float(dot.get_attribute(name)) for name in ("cx", "cy"))
        curve = [
            tuple(map(float, point.split(",")))
            for point in page.locator("polyline.curve").get_attribute("points").split()
        ]
        before = max(point for point in curve if point[0] <= x + 0.01)
        after = min(point for point in curve if point[0] >= x - 0.01)
        assert after[1] - 0.01 <= y <= before[1] + 0.01
    drag.release()
    assert regimes == ["near one-hot", "sharp", "typical", "flat", "near uniform"]


def test_the_stable_column_keeps_its_figures_while_the_written_one_turns_into_nan(open_page):
    page = open_page("stability")
    stable, naive = "[data-name='stable']", "[data-name='naive']"
    figures = [54.31, 24.40, 13.39, 5.45, 2.45]
    drag = Drag(page, page.get_by_role("slider", name="Offset added to every logit"))
    seen = set()
    for share in (0.7, 0.82, 0.87, 0.92, 1.0, 0.05):
        drag.to(share)
        offset = float(page.get_by_label("Offset added to every logit, as a number").input_value())
        broken = offset + 2 > math.log(1.7976931348623157e308) or offset < -745
        seen.add(broken)
        expect(output(page, "naive-status")).to_have_text("NaN" if broken else "right")
        expect(output(page, "stable-status")).to_have_text("right")
        expect_probabilities(page, [figure / 100 for figure in figures], 2, stable)
        if broken:
            expect(page.locator(f"{naive} [data-probability]")).to_have_text(["NaN"] * 5)
        else:
            expect_probabilities(page, [figure / 100 for figure in figures], 2, naive)
    drag.release()
    assert seen == {True, False}


def test_the_lessons_logit_of_842_breaks_the_written_formula_in_every_dtype(open_page):
    page = open_page("stability")
    page.get_by_role("button", name="842.3", exact=True).click()
    for dtype in ("float32", "bfloat16", "float16", "float64"):
        page.get_by_text(dtype, exact=True).first.click()
        expect(output(page, "naive-status")).to_have_text("NaN")
        expect(output(page, "stable-status")).to_have_text("right" if dtype in ("float32", "float64") else "off")
    page.get_by_role("button", name="10", exact=True).click()
    page.get_by_text("float16", exact=True).first.click()
    expect(page.locator("[data-name='naive-reason']")).to_contain_text("The largest float16 is 65504")
