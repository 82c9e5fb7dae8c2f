"""Fused softmax, log-softmax, log-sum-exp and cross-entropy for PyTorch.

Importing the package loads the library of operators: they are then also at ``torch.ops.softmax_ext``.
"""

from softmax_ext import _library

_library.load()

from softmax_ext import _vmap, nn  # noqa: E402, F401  (they need the operators)
from softmax_ext._library import __version__, cmake_prefix_path, include_dir, info, library_path  # noqa: E402
from softmax_ext.functional import (  # noqa: E402
    causal_lm_loss,
    cross_entropy,
    cross_entropy_with_logsumexp,
    linear_cross_entropy,
    log_softmax,
    logsumexp,
    softmax,
)

__all__ = [
    "__version__",
    "causal_lm_loss",
    "cmake_prefix_path",
    "cross_entropy",
    "cross_entropy_with_logsumexp",
    "include_dir",
    "info",
    "library_path",
    "linear_cross_entropy",
    "log_softmax",
    "logsumexp",
    "nn",
    "softmax",
]
