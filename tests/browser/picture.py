"""Draws the README's picture of the explorer: ``python tests/browser/picture.py docs/explorer.png``."""

import argparse
from pathlib import Path

import harness


def draw(path: Path, address: str, browser) -> None:
    page = browser.new_page(viewport={"width": 1180, "height": 808}, color_scheme="light")
    page.goto(f"{address}explorer")
    page.locator("[data-probability='0']").wait_for()
    page.wait_for_load_state("networkidle")
    page.screenshot(path=path)
    page.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("path", type=Path)
    path = parser.parse_args().path
    path.parent.mkdir(parents=True, exist_ok=True)
    with harness.explorer() as address, harness.browser() as browser:
        draw(path, address, browser)


if __name__ == "__main__":
    main()
