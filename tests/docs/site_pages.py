"""The built site, as its tests read it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HTML = ROOT / "build" / "docs" / "html"

#: What a browser fetches by itself.
FETCHED = {
    "img": "src",
    "script": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "object": "data",
    "use": "href",
}
#: A link to another file that is only named, not fetched.
NAMED_RELATIONS = {"index", "search", "next", "prev", "canonical"}


@dataclass
class Page:
    path: Path
    ids: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)


class _Parser(HTMLParser):
    def __init__(self, page: Page) -> None:
        super().__init__()
        self.page = page
        self.is_style = False

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attributes}
        if "id" in values:
            self.page.ids.add(values["id"])
        if tag == "a" and "href" in values:
            self.page.links.append(values["href"])
        elif tag == "link":
            is_named = values.get("rel") in NAMED_RELATIONS
            (self.page.links if is_named else self.page.fetched).append(values["href"])
        elif tag in FETCHED and FETCHED[tag] in values:
            self.page.fetched.append(values[FETCHED[tag]])
        self.page.fetched += fetched_by_css(values.get("style", ""))
        self.is_style = tag == "style"

    def handle_data(self, data: str) -> None:
        if self.is_style:
            self.page.fetched += fetched_by_css(data)


def fetched_by_css(text: str) -> list[str]:
    return [a or b for a, b in re.findall(r"""url\(\s*["']?([^"')]+)|@import\s+["']([^"']+)""", text)]


@cache
def pages() -> dict[Path, Page]:
    paths = sorted(HTML.rglob("*.html"))
    assert paths, f"expected the site in {HTML}, found no page: 'make docs' builds it"
    result = {}
    for path in paths:
        result[path] = Page(path)
        _Parser(result[path]).feed(path.read_text())
    return result


def style_sheets() -> Iterator[tuple[Path, list[str]]]:
    for path in sorted(HTML.rglob("*.css")):
        yield path, fetched_by_css(path.read_text())
