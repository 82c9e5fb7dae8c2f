"""``DTensor`` in softmax_ext's operators: importing this module registers how each runs on sharded tensors.

Rows that are split over ranks (any dim but that of the classes) stay where they are. A loss over classes that are split
runs as :func:`softmax_ext.distributed.vocab_parallel_cross_entropy` does, its gradient without communication. So does
``logsumexp``, whose gradient takes another all-gather of a few numbers of each row; other operators gather the classes
first. Uneven shards are allowed.

``register_sharding`` is experimental in torch, and the table of handlers for whole operators private: both are used
here alone.
"""

from torch.distributed.tensor import DTensor
from torch.distributed.tensor.experimental import register_sharding

from ._sharded_losses import HANDLERS
from ._sharding import RULES

for _operator, _rule in RULES.items():
    register_sharding(_operator)(_rule)
DTensor._op_dispatcher._custom_op_handlers.update(HANDLERS)
