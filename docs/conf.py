"""The documentation: ``make docs`` builds it in build/docs, without the network.

What changes by itself is made at the start of a build, from the package, the committed results of the benchmarks and the
operators: the pages of the Python reference, tables, and pictures. The modules in extensions/ do that.
"""

import sys
from pathlib import Path

import tomllib

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS), str(DOCS.parent)]

project = "softmax_ext"
release = tomllib.loads((DOCS.parent / "pyproject.toml").read_text())["project"]["version"]
html_title = f"softmax_ext {release}"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.napoleon",
    "extensions.generated",
    "extensions.mathml",
]
exclude_patterns = ["generated/tables"]
myst_enable_extensions = ["colon_fence", "dollarmath", "fieldlist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_rtype = False

# Other projects' names are not looked up: that takes their inventories, from the network.
nitpick_ignore_regex = [
    (r"py:.*", r"(torch|functools|collections|typing|matplotlib|transformers)(\..*)?"),
    (r"py:class", r"(Tensor|Axes|Any|Sequence|Mapping|Parameter|optional)"),
]
suppress_warnings = ["myst.header"]

# Docstrings show the package's names as one who imported them would write them.
doctest_global_setup = """
import math
import torch
import softmax_ext
from softmax_ext import *
torch.manual_seed(0)
"""

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False
html_favicon = "../python/softmax_ext/explorer/static/icon.svg"
pygments_style = "friendly"
pygments_dark_style = "monokai"
