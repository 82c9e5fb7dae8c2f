"""What is made at the start of a build: reference/python, generated/tables and generated/pictures.

A file is written only if its content changes, so that a second build reads only pages that changed.
"""

from pathlib import Path

from sphinx.application import Sphinx

from extensions import measurements, operators, pictures, python_reference


def generate(app: Sphinx) -> None:
    docs = Path(app.srcdir)
    files = {
        **{f"reference/python/{name}": text for name, text in python_reference.pages().items()},
        **{f"generated/tables/{name}": text for name, text in measurements.tables(docs.parent).items()},
        "generated/tables/operators.md": operators.table(),
        **{f"generated/pictures/{name}": image for name, image in pictures.draw_all().items()},
    }
    for name, content in files.items():
        path = docs / name
        data = content.encode() if isinstance(content, str) else content
        if not path.exists() or path.read_bytes() != data:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    for folder in ("reference/python", "generated"):
        for path in (docs / folder).rglob("*.*"):
            if str(path.relative_to(docs)) not in files:
                path.unlink()


def setup(app: Sphinx) -> dict:
    app.connect("builder-inited", generate)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
