"""Every link of the site leads somewhere, nothing comes from another host, and the reference has everything.

Without a network: of links to other hosts only the form is checked.
"""

import html
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import torch
from markdown_it import MarkdownIt
from site_pages import HTML, ROOT, pages, style_sheets

import softmax_ext

DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples/from_cpp/README.md")]


def name(path: Path) -> str:
    return str(path.relative_to(HTML))


def test_every_link_within_the_site_has_a_page_and_an_anchor():
    broken = []
    for page in pages().values():
        for link in page.links:
            url = urlsplit(link)
            if url.scheme or url.netloc:
                continue
            path = (page.path.parent / unquote(url.path)).resolve() if url.path else page.path
            if path.is_dir():
                path /= "index.html"
            if not path.exists():
                broken.append(f"{name(page.path)}: no file {link}")
            elif url.fragment and path in pages() and unquote(url.fragment) not in pages()[path].ids:
                broken.append(f"{name(page.path)}: no anchor {link}")
    assert not broken, "\n".join(broken)


def test_links_to_other_hosts_are_well_formed():
    seen = 0
    for page in pages().values():
        for link in page.links:
            url = urlsplit(link)
            if url.scheme or url.netloc:
                seen += 1
                assert url.scheme == "https", f"{name(page.path)}: {link}"
                assert re.fullmatch(r"([a-z0-9-]+\.)+[a-z]{2,}", url.netloc), f"{name(page.path)}: {link}"
                assert not re.search(r"[\s<>]", link), f"{name(page.path)}: {link}"
    assert seen > 0


def test_nothing_is_fetched_from_another_host():
    outside = [
        f"{name(path)}: {address}"
        for path, addresses in [*((page.path, page.fetched) for page in pages().values()), *style_sheets()]
        for address in addresses
        if urlsplit(address).netloc or urlsplit(address).scheme not in ("", "data")
    ]
    assert not outside, "\n".join(outside)


def test_everything_that_is_fetched_is_there():
    missing = []
    for path, addresses in [*((page.path, page.fetched) for page in pages().values()), *style_sheets()]:
        for address in addresses:
            url = urlsplit(address)
            if url.scheme != "data" and url.path and not (path.parent / unquote(url.path)).exists():
                missing.append(f"{name(path)}: {address}")
    assert not missing, "\n".join(missing)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_of_documents_lead_to_files_and_headings(document):
    text = document.read_text()
    headings = {_anchor(heading) for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}
    for token in MarkdownIt().enable("table").parse(text):
        for child in token.children or []:
            link = child.attrGet("href") or child.attrGet("src")
            if not link or urlsplit(link).scheme:
                continue
            url = urlsplit(link)
            assert not url.path or (document.parent / unquote(url.path)).exists(), f"no file {link}"
            assert not url.fragment or url.path or url.fragment in headings, f"no heading {link}"


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_the_reference_has_all_that_the_package_exports():
    ids = {identifier for page in pages().values() for identifier in page.ids}
    names = [f"softmax_ext.{exported}" for exported in softmax_ext.__all__ if exported != "nn"]
    names += [
        f"softmax_ext.nn.{name}"
        for name, value in vars(softmax_ext.nn).items()
        if getattr(value, "__module__", "") == "softmax_ext.nn" and not name.startswith("_")
    ]
    assert len(names) > 25
    assert [name for name in names if name not in ids] == []


def test_the_reference_has_the_schema_of_every_operator():
    text = re.sub(r"<[^>]+>", "", (HTML / "reference" / "operators.html").read_text())
    shown = "".join(html.unescape(text).split())
    schemas = [str(schema) for schema in torch._C._jit_get_all_schemas() if schema.name.startswith("softmax_ext::")]
    assert len(schemas) > 40
    assert [schema for schema in schemas if "".join(schema.removeprefix("softmax_ext::").split()) not in shown] == []


def test_no_page_names_a_folder_of_the_machine_that_built_it():
    for path in HTML.rglob("*"):
        if path.suffix in (".html", ".js", ".svg"):
            assert str(ROOT) not in path.read_text(), name(path)
