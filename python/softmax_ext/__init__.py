"""Fused softmax, log-softmax, log-sum-exp and cross-entropy for PyTorch.

Importing the package loads the library of operators: they are then also at ``torch.ops.softmax_ext``.
"""

from . import _library

_library.load()

from . import _vmap, nn  # noqa: E402, F401  (they need the operators)
from ._library import __version__, cmake_prefix_path, include_dir, info, library_path  # noqa: E402
from .acceleration import Acceleration, accelerate  # noqa: E402
from .calibration import (  # noqa: E402
    ReliabilityCurve,
    TemperatureFit,
    brier_score,
    calibration_error,
    calibration_error_floor,
    fit_temperature,
    reliability_curve,
)
from .functional import (  # noqa: E402
    causal_lm_loss,
    cross_entropy,
    cross_entropy_with_logsumexp,
    entropy,
    linear_cross_entropy,
    log_softmax,
    logsumexp,
    softmax,
)
from .masked import causal_softmax, masked_softmax  # noqa: E402
from .reliability_plot import plot_reliability  # noqa: E402
from .sampling import SamplingProcessor, sample  # noqa: E402

__all__ = [
    "Acceleration",
    "ReliabilityCurve",
    "SamplingProcessor",
    "TemperatureFit",
    "__version__",
    "accelerate",
    "brier_score",
    "calibration_error",
    "calibration_error_floor",
    "causal_lm_loss",
    "causal_softmax",
    "cmake_prefix_path",
    "cross_entropy",
    "cross_entropy_with_logsumexp",
    "entropy",
    "fit_temperature",
    "include_dir",
    "info",
    "library_path",
    "linear_cross_entropy",
    "log_softmax",
    "logsumexp",
    "masked_softmax",
    "nn",
    "plot_reliability",
    "reliability_curve",
    "sample",
    "softmax",
]
