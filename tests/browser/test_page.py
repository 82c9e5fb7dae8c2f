"""What holds for every view: addresses, keyboard, names of controls, width, colours, and requests one at a time."""

import math
from pathlib import Path

import pytest
from playwright.sync_api import expect

SCREENSHOTS = Path(__file__).resolve().parents[2] / "build" / "screenshots"
VIEWS = ["explorer", "temperature", "stability", "sampling", "calibration"]
SIZES = {"desktop": {"width": 1280, "height": 860}, "phone": {"width": 390, "height": 844}}
TWELVE = "explorer?" + "&".join(f"class={label}:{index / 4}" for index, label in enumerate("abcdefghijkl"))


@pytest.mark.parametrize("path", [*VIEWS, TWELVE])
def test_a_view_fits_the_screen_in_light_and_dark(open_page, path):
    page = open_page(path)
    page.wait_for_load_state("networkidle")
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    for size, viewport in SIZES.items():
        page.set_viewport_size(viewport)
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
            color = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
            assert (sum(color) < 3 * 128) == (scheme == "dark")
            name = "twelve" if path == TWELVE else path
            page.screenshot(path=SCREENSHOTS / f"{name}-{size}-{scheme}.png", full_page=True)


def test_the_theme_can_be_chosen_and_is_kept(open_page):
    page = open_page("explorer", color_scheme="light")
    page.get_by_role("button", name="Switch between light and dark").click()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.reload()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


@pytest.mark.parametrize("view", VIEWS)
def test_every_control_has_a_name(open_page, view):
    page = open_page(view)
    session = page.context.new_cdp_session(page)
    roles = {"slider", "spinbutton", "textbox", "combobox", "radio", "button", "link", "image", "img"}
    found = set()
    for node in session.send("Accessibility.getFullAXTree")["nodes"]:
        role = node.get("role", {}).get("value")
        if role in roles and not node.get("ignored"):
            found.add(role)
            assert node["name"]["value"].strip(), node
    assert {"slider", "spinbutton", "link"} <= found


def test_the_keyboard_reaches_and_moves_every_slider(open_page):
    page = open_page("explorer")
    for name in ("cat", "dog", "bird", "fish", "fox"):
        slider = page.get_by_role("slider", name=f"Logit of {name}")
        before = float(slider.input_value())
        page.get_by_label(f"Logit of {name}, as a number").focus()
        page.keyboard.press("Shift+Tab")
        expect(slider).to_be_focused()
        page.keyboard.press("ArrowUp")
        page.keyboard.press("ArrowUp")
        assert float(slider.input_value()) == pytest.approx(before + 0.1)
        expect(page.get_by_label(f"Logit of {name}, as a number")).to_have_value(f"{before + 0.1:.2f}")
    expect(page.locator("[data-probability='0']")).to_have_text("50.5 %")  # all went up alike
    temperature = page.get_by_role("slider", name="Temperature T")
    temperature.focus()
    page.keyboard.press("Home")
    expect(page.locator("[data-probability='0']")).to_have_text("100.0 %")
    expect(page.get_by_label("Temperature T, as a number")).to_have_value("0.01")


def test_an_address_shows_the_view_that_it_was_copied_from(open_page):
    page = open_page("explorer")
    page.get_by_label("Name of class 2").fill("a:b & c?")
    page.get_by_label("Logit of a:b & c?, as a number").fill("3.5")
    page.get_by_text("float32", exact=True).click()
    page.get_by_label("Temperature T, as a number").fill("0.7")
    expect(page.locator("output[name='argmax']")).to_have_text("a:b & c?")
    page.wait_for_url("**temperature=0.7**")
    page.wait_for_load_state("networkidle")
    numbers = "Array.from(document.querySelectorAll('output, [data-probability], pre'), element => element.textContent)"
    copy = open_page(page.url.split("/", 3)[3])
    assert copy.evaluate(numbers) == page.evaluate(numbers)
    expect(copy.get_by_label("Name of class 2")).to_have_value("a:b & c?")
    expect(copy.get_by_label("Temperature T, as a number")).to_have_value("0.7")
    expect(copy.get_by_role("radio", name="float32")).to_be_checked()


def test_views_keep_their_settings_and_hand_on_their_classes(open_page):
    page = open_page("explorer?class=a:1&class=b:2&class=c:4")
    page.get_by_role("link", name="Sweep the temperature of these").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Temperature")
    expect(page.locator("output[name='argmax']")).to_have_text("c")
    page.get_by_label("Temperature T, as a number").fill("3")
    page.get_by_role("link", name="Stability").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Stability")
    page.get_by_role("link", name="Temperature", exact=True).click()
    expect(page.get_by_label("Temperature T, as a number")).to_have_value("3")
    page.go_back()
    expect(page.get_by_role("heading", level=1)).to_have_text("Stability")


def test_one_request_is_under_way_at_a_time_and_the_newest_state_wins(open_page):
    held_answers = """
      window.asked = 0;
      window.answered = 0;
      let gate = Promise.resolve();
      window.hold = () => { gate = new Promise((open) => { window.letGo = open; }); };
      const fetchNow = window.fetch;
      window.fetch = async (...request) => {
        window.asked++;
        const response = await fetchNow(...request);
        await gate;
        window.answered++;
        return response;
      };"""
    page = open_page("explorer", prepare=held_answers)
    page.evaluate("window.hold()")
    slider = page.get_by_role("slider", name="Logit of fox")
    for logit in range(-5, 6):
        slider.fill(str(logit))
    assert page.evaluate("[window.asked, window.answered]") == [2, 1]  # of the page's beginning, and of −5
    page.evaluate("window.letGo()")
    fox = math.exp(5) / (math.exp(5) + sum(map(math.exp, (2.2, 1.7, 0.8, -0.1))))
    expect(page.locator("[data-probability='4']")).to_have_text(f"{100 * fox:.1f} %")
    assert page.evaluate("[window.asked, window.answered]") == [3, 3]  # and of 5, without those between


def test_a_server_that_fails_or_is_gone_is_named(open_page):
    page = open_page("explorer")
    slider = page.get_by_role("slider", name="Logit of cat")
    page.route("**/api/**", lambda route: route.fulfill(status=500, body="Internal Server Error"))
    slider.press("ArrowUp")
    expect(page.get_by_role("alert")).to_have_text("The explorer's server failed: its terminal says why.")
    page.unroute("**/api/**")
    page.route("**/api/**", lambda route: route.abort())
    slider.press("ArrowUp")
    expect(page.get_by_role("alert")).to_contain_text("does not answer")
    page.unroute("**/api/**")
    slider.press("ArrowUp")
    expect(page.get_by_role("alert")).to_be_hidden()
    # Chromium itself reports both.
    assert len(open_page.offences) == 2
    open_page.offences.clear()


def test_an_address_that_cannot_be_shown_says_why_and_leads_back(open_page):
    page = open_page("temperature?temperature=-1")
    expect(page.get_by_role("alert")).to_have_text("temperature: expected a number from 0.01 to 100, got '-1'")
    page.get_by_role("link", name="Back to the default settings").click()
    expect(page.locator("output[name='entropy']")).to_have_text("1.723 bits")
    expect(page.get_by_role("alert")).to_be_hidden()
    # Chromium itself reports the refusal.
    refusal = open_page.offences.pop()
    assert "status of 400" in refusal
