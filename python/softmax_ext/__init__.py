"""Fused softmax, log-softmax, log-sum-exp and cross-entropy for PyTorch.

Importing the package loads the library of operators: they are then also at ``torch.ops.softmax_ext``.
"""

from softmax_ext import _library

_library.load()

from softmax_ext import _vmap, nn  # noqa: E402, F401  (they need the operators)
from softmax_ext._library import __version__, cmake_prefix_path, include_dir, info, library_path  # noqa: E402
from softmax_ext.acceleration import Acceleration, accelerate  # noqa: E402
from softmax_ext.calibration import (  # noqa: E402
    ReliabilityCurve,
    TemperatureFit,
    brier_score,
    calibration_error,
    calibration_error_floor,
    fit_temperature,
    reliability_curve,
)
from softmax_ext.functional import (  # noqa: E402
    causal_lm_loss,
    cross_entropy,
    cross_entropy_with_logsumexp,
    entropy,
    linear_cross_entropy,
    log_softmax,
    logsumexp,
    softmax,
)
from softmax_ext.masked import causal_softmax, masked_softmax  # noqa: E402
from softmax_ext.reliability_plot import plot_reliability  # noqa: E402
from softmax_ext.sampling import SamplingProcessor, sample  # noqa: E402

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
