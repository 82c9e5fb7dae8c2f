"""The pages of the Python reference: everything that the package exports, by the module that defines it.

A new function in ``softmax_ext.__all__``, and a new public module, appear without a change here.
"""

import importlib
import inspect
import pkgutil
from types import ModuleType

from sphinx.pycode import ModuleAnalyzer

import softmax_ext

#: In this order, with these titles; other modules follow, titled by the first sentence of their docstring.
TITLES = {
    "functional": "Functions",
    "masked": "Masked softmax",
    "nn": "Modules",
    "sampling": "Sampling",
    "calibration": "Calibration",
    "reliability_plot": "Reliability diagrams",
    "acceleration": "Acceleration",
    "onnx": "ONNX",
}
#: Programs: a page tells how to use them, and nothing is imported from them.
PROGRAMS = {"explorer"}
INSTALLATION = "installation"


def pages() -> dict[str, str]:
    """File name to content, in reStructuredText."""
    result, names = {}, []
    exported = {name: getattr(softmax_ext, name) for name in softmax_ext.__all__}
    for module in _modules():
        short = module.__name__.removeprefix("softmax_ext.")
        defined = [name for name in _public(module) if getattr(module, name).__module__ == module.__name__]
        if defined:
            result[f"{short}.rst"] = _page(module, _title(module, short), defined, exported)
            names.append(short)
    others = [name for name, value in exported.items() if not _is_on_a_page(value, names)]
    result[f"{INSTALLATION}.rst"] = _installation(others)
    entries = "\n".join(f"   {name}" for name in [*names, INSTALLATION])
    result["index.rst"] = f"{_heading('Python')}\n.. toctree::\n   :maxdepth: 2\n\n{entries}\n"
    return result


def _modules() -> list[ModuleType]:
    found = [name for _, name, _ in pkgutil.iter_modules(softmax_ext.__path__)]
    public = [name for name in found if not name.startswith("_") and name not in PROGRAMS]
    known = list(TITLES)
    public.sort(key=lambda name: (known.index(name) if name in known else len(known), name))
    return [importlib.import_module(f"softmax_ext.{name}") for name in public]


def _public(module: ModuleType) -> list[str]:
    """Its functions and classes, in the order of the source."""
    names = getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]
    return [
        name for name in names if inspect.isroutine(getattr(module, name)) or inspect.isclass(getattr(module, name))
    ]


def _is_on_a_page(value: object, pages: list[str]) -> bool:
    if inspect.ismodule(value):
        return True
    return getattr(value, "__module__", "").removeprefix("softmax_ext.") in pages


def _title(module: ModuleType, short: str) -> str:
    return TITLES.get(short) or (inspect.getdoc(module) or short).split("\n")[0].rstrip(".").split(":")[0]


def _page(module: ModuleType, title: str, names: list[str], exported: dict[str, object]) -> str:
    first, _, others = (inspect.getdoc(module) or "").partition("\n\n")
    parts = [_heading(title), others or ("" if first.startswith(title) else first), ""]
    current = None
    for name in names:
        value = getattr(module, name)
        of = "softmax_ext" if exported.get(name) is value else module.__name__
        if of != current:
            directive = "py:module" if of == module.__name__ else "currentmodule"
            parts.append(f".. {directive}:: {of}\n")
            if of == module.__name__:  # its examples name what is in it
                parts.append(f".. testsetup::\n\n   from {of} import *\n")
            current = of
        if inspect.isclass(value):
            parts.append(f".. autoclass:: {name}\n   :members:\n   :show-inheritance:\n")
        else:
            parts.append(f".. autofunction:: {name}\n")
    return "\n".join(parts)


def _installation(names: list[str]) -> str:
    """What is known of the installed package. The values are those of a machine, and not shown."""
    comments = ModuleAnalyzer.for_module("softmax_ext._library").find_attr_docs()
    parts = [_heading("The installation"), ".. currentmodule:: softmax_ext\n"]
    for name in names:
        if callable(getattr(softmax_ext, name)):
            parts.append(f".. autofunction:: {name}\n")
        else:
            comment = " ".join(comments.get(("", name), []))
            parts.append(f".. py:data:: {name}\n   :type: str\n\n   {comment}\n")
    return "\n".join(parts)


def _heading(text: str) -> str:
    return f"{text}\n{'=' * len(text)}\n"
