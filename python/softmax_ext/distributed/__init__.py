"""Softmax over classes that are split over the ranks of a process group.

``import softmax_ext.distributed.tensor`` adds what ``DTensor`` needs: rules for every operator.
"""

from .cross_entropy import vocab_parallel_cross_entropy, vocab_parallel_logsumexp
from .linear import vocab_parallel_linear_cross_entropy
from .sampling import vocab_parallel_sample

__all__ = [
    "vocab_parallel_cross_entropy",
    "vocab_parallel_linear_cross_entropy",
    "vocab_parallel_logsumexp",
    "vocab_parallel_sample",
]
