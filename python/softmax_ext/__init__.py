"""Fused softmax, log-softmax, log-sum-exp and cross-entropy for PyTorch.

Importing the package loads the library of operators: they are then also at ``torch.ops.softmax_ext``.
"""

from softmax_ext import _library

_library.load()

from softmax_ext import _vmap, nn  # noqa: E402, F401  (they need the operators)
from softmax_ext._library import __version__, cmake_prefix_path, include_dir, info, library_path  # noqa: E402
from softmax_ext.functional import cross_entropy, log_softmax, logsumexp, softmax  # noqa: E402

__all__ = [
    "__version__",
    "cmake_prefix_path",
    "cross_entropy",
    "include_dir",
    "info",
    "library_path",
    "log_softmax",
    "logsumexp",
    "nn",
    "softmax",
]
