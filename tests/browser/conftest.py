"""Pages that fail their test if they ask another host for anything, or say anything in the console."""

import statistics
from urllib.parse import urlsplit

import harness
import pytest
from playwright.sync_api import expect

UPDATES = "performance.getEntriesByName('update').map(entry => entry.duration)"
latencies: list[float] = []

# A machine that compiles beside the tests stands still for seconds.
TIMEOUT = 60_000  # milliseconds
expect.set_options(timeout=TIMEOUT)


@pytest.fixture(scope="session")
def address(tmp_path_factory):
    # No file is there yet: test_sampling_view.py starts an explorer of its own that finds one.
    missing = tmp_path_factory.mktemp("explorer") / "next_token.pt"
    with harness.explorer("--next-token", str(missing)) as address:
        yield address


@pytest.fixture(scope="session")
def chromium():
    with harness.browser() as browser:
        yield browser


@pytest.fixture
def open_page(chromium, address):
    """``open_page(path, **options of the browser context)``: a page that is watched until the end of the test."""
    contexts, offences = [], []

    def gate(route):
        if urlsplit(route.request.url).netloc == urlsplit(address).netloc:
            route.continue_()
        else:
            offences.append(f"a request to {route.request.url}")
            route.abort()

    def open_page(path, *, prepare=None, **options):
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 860}, **options})
        contexts.append(context)
        context.route("**/*", gate)
        page = context.new_page()
        page.set_default_timeout(TIMEOUT)
        page.on("console", lambda message: offences.append(f"{message.type} in the console: {message.text}"))
        page.on("pageerror", lambda error: offences.append(f"an exception: {error}"))
        if prepare:
            page.add_init_script(prepare)
        page.goto(address + path)
        page.locator("main h1").wait_for()
        return page

    open_page.offences = offences
    yield open_page
    for context in contexts:
        for page in context.pages:
            latencies.extend(page.evaluate(UPDATES))
        context.close()
    assert offences == []


def pytest_terminal_summary(terminalreporter):
    if latencies:
        slowest = sorted(latencies)[int(0.95 * len(latencies))]
        terminalreporter.write_line(
            f"From input to update: {statistics.median(latencies):.1f} ms median, {slowest:.1f} ms at 95 %, of "
            f"{len(latencies)} updates"
        )
