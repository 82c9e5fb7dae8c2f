"""Runs the softmax family of code that knows torch alone on this library's operators."""

from __future__ import annotations

import threading
import types
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode, _get_current_function_mode

from . import functional
from ._library import info

_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
#: What calls are refused with: torch's function is then called too, and what it raises is what is raised.
_ERRORS = (IndexError, NotImplementedError, RuntimeError, TypeError, ValueError)
_DEVICES = ("cpu", "meta", "cuda") if info()["cuda"] is not None else ("cpu", "meta")

_counters = threading.Lock()


def accelerate(model: torch.nn.Module | None = None) -> Acceleration:
    """Makes existing code use this library: calls of torch's functions run on ours, with torch's results.

    ``with accelerate():`` does so for what the block calls; ``accelerate(model)`` for every forward pass of ``model``
    from now on, its loss included where the model computes it. Taken are ``softmax``, ``log_softmax`` and ``logsumexp``
    of :mod:`torch`, :mod:`torch.special` and as methods; ``softmax``, ``log_softmax``, ``softmin``, ``cross_entropy``
    and, where torch has it, ``linear_cross_entropy`` of :mod:`torch.nn.functional`; and through them the modules of
    :mod:`torch.nn`, the functions of :mod:`torch.masked`, and ``nll_loss`` of a ``log_softmax``.

    Args:
        model: What to accelerate; or None for a context manager.

    Returns:
        A context manager, which for a model also has ``remove()``. Its ``report()`` says what was taken, and what was
        left to torch for which reason.

    A call that is not ours to take is torch's, errors included: another device or layout, an integer dtype, complex
    numbers, a tensor subclass with a ``__torch_function__`` of its own, an argument that ours has not. Results have
    torch's shapes, strides and dtypes (the loss of bfloat16 logits is bfloat16). Three values are other ones:
    ``logsumexp`` of −inf alone has the gradient 0 (torch: NaN), a class of probability 0 adds nothing to a loss even
    where its logit is −inf (torch: NaN), and ``dtype=`` converts results, not logits, which would overflow in float16.

    It is a :class:`torch.overrides.TorchFunctionMode`. So it works with autograd, :mod:`torch.func` and
    :func:`torch.compile`, which traces it and guards on it; it holds for functions that were imported by name; it may be
    nested; and it holds in the thread that entered it, and in the threads of a backward pass that was called in the
    block. What is checkpointed runs again in backward: call that in the block too, for a model in ``with accelerate():``.
    Every call of torch's functions in the
    block costs some two microseconds more. It does not see ``scaled_dot_product_attention``, under compile also not
    ``multi_head_attention_forward``, nor what C++ and TorchScript call.

    >>> x = torch.tensor([2.0, 1.0, 0.0])
    >>> with accelerate() as acceleration:
    ...     probs = torch.softmax(x, 0)
    >>> print(acceleration.report())
    on softmax_ext: 1 call
      softmax 1
    on torch: 0 calls
    """
    return Acceleration(model)


class Acceleration:
    """What :func:`accelerate` returns.

    Attributes:
        taken: How many calls ran on this library, by name of the function.
        fell_back: How many were left to torch, by name and reason.

    Under :func:`torch.compile` calls count when they are traced, each time that they are: a compiled function that runs
    again counts nothing, and a block within compiled code has no counts. What is not seen (``scaled_dot_product_attention``
    say, see :func:`accelerate`) is not counted either.
    """

    taken: Counter[str]
    fell_back: Counter[tuple[str, str]]

    def __init__(self, model: torch.nn.Module | None = None) -> None:
        if model is not None and not isinstance(model, torch.nn.Module):
            raise TypeError(f"accelerate: expected a torch.nn.Module or None, got {type(model).__name__}")
        self.taken, self.fell_back = Counter(), Counter()
        self._mode = _Mode(self)
        self._has_model = model is not None
        self._hooks = ()
        if model is not None:
            self._hooks = (
                model.register_forward_pre_hook(self._enter, prepend=True),
                model.register_forward_hook(self._leave, always_call=True),
            )

    def __enter__(self) -> Acceleration:
        if not self._has_model:
            self._mode.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._has_model:
            self.remove()
        else:
            self._mode.__exit__(*exception)

    def remove(self) -> None:
        """Leaves the model as it was."""
        for hook in self._hooks:
            hook.remove()
        # A forward pass that was interrupted (KeyboardInterrupt) called no hook to leave.
        while _get_current_function_mode() is self._mode:
            self._mode.__exit__(None, None, None)

    def report(self) -> str:
        """What was taken, and what was left to torch and why, most frequent first."""
        with _counters:
            taken, fell_back = self.taken.most_common(), self.fell_back.most_common()
        lines = [f"on softmax_ext: {_calls(taken)}"]
        lines += [f"  {name} {count}" for name, count in taken]
        lines.append(f"on torch: {_calls(fell_back)}")
        lines += [f"  {name} {count}: {reason}" for (name, reason), count in fell_back]
        return "\n".join(lines)

    @torch.compiler.assume_constant_result  # a number that changes with each call would be a guard of each graph
    def _count(self, name: str, refusal: str | None) -> None:
        if not hasattr(self, "taken"):
            return  # made in the code that is being traced, where nothing is yet
        with _counters:
            if refusal is None:
                self.taken[name] += 1
            else:
                self.fell_back[name, refusal] += 1

    def _enter(self, module: torch.nn.Module, arguments: tuple) -> None:
        self._mode.__enter__()

    def _leave(self, module: torch.nn.Module, arguments: tuple, result: Any) -> None:
        # Called after an error too, one that came before our turn to enter among them.
        if _get_current_function_mode() is self._mode:
            self._mode.__exit__(None, None, None)


class _Mode(TorchFunctionMode):
    def __init__(self, acceleration: Acceleration) -> None:
        super().__init__()
        self._acceleration = acceleration

    def __torch_function__(self, function: Callable, kinds: tuple, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        replacement = _REPLACEMENTS.get(function)
        if replacement is None:
            if function in _ENTERED and not torch.compiler.is_compiling():
                with self:  # which is off in here
                    return _ENTERED[function](*args, **kwargs)
            return function(*args, **kwargs)
        refusal = _of_subclass(kinds) or _bound(replacement.refusal, args, kwargs)
        if refusal is None:
            try:
                result = replacement.ours(*args, **kwargs)
            except torch.OutOfMemoryError:
                raise
            except _ERRORS as error:
                refusal = f"{type(error).__name__}: {error}".partition("\n")[0]
            else:
                self._acceleration._count(replacement.name, None)
                return result
        self._acceleration._count(replacement.name, refusal)
        return function(*args, **kwargs)


def _calls(counts: list[tuple[Any, int]]) -> str:
    total = sum(count for _, count in counts)
    return f"{total} call{'' if total == 1 else 's'}"


# Why a call is left to torch, or None. Each takes the arguments of torch's functions.


def _of_subclass(kinds: tuple) -> str | None:
    return next((f"subclass {kind.__name__}" for kind in kinds if kind is not Tensor), None)


def _bound(refusal: Callable[..., str | None], args: tuple, kwargs: dict) -> str | None:
    try:
        return refusal(*args, **kwargs)
    except (AttributeError, TypeError) as error:  # not the arguments of such a call: torch says so
        return f"{type(error).__name__}: {error}"


def _of_tensor(tensor: Tensor, dtypes: tuple = _DTYPES) -> str | None:
    if tensor.is_nested:
        return "nested tensor"
    if tensor.layout is not torch.strided:
        return f"layout {str(tensor.layout).removeprefix('torch.')}"
    if tensor.device.type not in _DEVICES:
        return f"device {tensor.device.type}"
    return _of_dtype(tensor.dtype, dtypes)


def _of_dtype(dtype: torch.dtype, dtypes: tuple = _DTYPES) -> str | None:
    return None if dtype in dtypes else f"dtype {str(dtype).removeprefix('torch.')}"


def _refusal_of_normalized(
    input: Tensor, dim: int, dtype: torch.dtype | None = None, *, out: Tensor | None = None
) -> str | None:
    if not isinstance(dim, int):
        return f"dim of type {type(dim).__name__}"
    if dtype is None:
        return _of_tensor(input)
    return _of_tensor(input, _DTYPES + _INTEGERS) or _of_dtype(dtype)


def _refusal_of_functional(
    input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None
) -> str | None:
    return _refusal_of_normalized(input, 0 if dim is None else dim, dtype)


def _refusal_of_logsumexp(
    input: Tensor, dim: int | tuple[int, ...], keepdim: bool = False, *, out: Tensor | None = None
) -> str | None:
    if out is not None:
        return "out"
    if not isinstance(dim, int) and len(dim) == 0 and input.dim() > 0:
        return "no dim"  # all of them for ours, an error of torch's
    return _of_tensor(input, _DTYPES + _INTEGERS)


def _refusal_of_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> str | None:
    refusal = _of_tensor(input)
    if refusal is not None:
        return refusal
    of_input = _DTYPES if torch.is_autocast_enabled(input.device.type) else (input.dtype,)
    # Of torch's, only the loss of rows without trailing dims takes uint8.
    of_target = (torch.int64, *of_input) if input.dim() > 2 else (torch.int64, torch.uint8, *of_input)
    refusal = _of_tensor(target, of_target)
    if refusal is None and weight is not None:
        refusal = _of_tensor(weight, of_input)
        return refusal and f"weight of {refusal}"
    return refusal and f"target of {refusal}"


def _refusal_of_linear(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    options: Any = None,
    **arguments: Any,
) -> str | None:
    return _of_tensor(linear_weight, (input.dtype,)) or _refusal_of_cross_entropy(input, target, weight)


# Ours, with the arguments and results of torch's functions.


def _functional(name: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def functional(
        input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None
    ) -> Tensor:
        dim = F._get_softmax_dim(name, input.dim(), _stacklevel + 3) if dim is None else dim
        return function(input, dim, dtype)

    return functional


def _softmin(input: Tensor, dim: int, dtype: torch.dtype | None) -> Tensor:
    return functional.softmax(-input, dim, dtype)


def _in_torchs_dtype(loss: Tensor, input: Tensor) -> Tensor:
    """Which is float32 under autocast."""
    return loss if torch.is_autocast_enabled(input.device.type) else loss.to(input.dtype)


def _cross_entropy(input: Tensor, *arguments: Any, **options: Any) -> Tensor:
    return _in_torchs_dtype(functional.cross_entropy(input, *arguments, **options), input)


def _linear_cross_entropy(input: Tensor, *arguments: Any, options: Any = None, **others: Any) -> Tensor:
    return _in_torchs_dtype(functional.linear_cross_entropy(input, *arguments, **others), input)


@dataclass(frozen=True)
class _Replacement:
    name: str
    refusal: Callable[..., str | None]
    ours: Callable[..., Tensor]


_REPLACEMENTS: dict[Callable, _Replacement] = {}
for _name, _refusal in (
    ("softmax", _refusal_of_normalized),
    ("log_softmax", _refusal_of_normalized),
    ("logsumexp", _refusal_of_logsumexp),
):
    _replacement = _Replacement(_name, _refusal, getattr(functional, _name))
    for _module in (torch, torch.Tensor, torch.special):
        _REPLACEMENTS[getattr(_module, _name)] = _replacement
for _name, _function in (
    ("softmax", functional.softmax),
    ("log_softmax", functional.log_softmax),
    ("softmin", _softmin),
):
    _REPLACEMENTS[getattr(F, _name)] = _Replacement(_name, _refusal_of_functional, _functional(_name, _function))
_REPLACEMENTS[F.cross_entropy] = _Replacement("cross_entropy", _refusal_of_cross_entropy, _cross_entropy)
if hasattr(F, "linear_cross_entropy"):
    _REPLACEMENTS[F.linear_cross_entropy] = _Replacement(
        "linear_cross_entropy", _refusal_of_linear, _linear_cross_entropy
    )


def _unchecked(function: Callable) -> Callable:
    """The same function, but that it does not ask whether it is overridden: it may be called with a mode on."""
    checks = [name for name in function.__code__.co_names if name.startswith("has_torch_function")]
    names = {**function.__globals__, **dict.fromkeys(checks, lambda *_: False)}
    copy = types.FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


#: Functions of torch that call others that are to be seen: the first three, a checkpointed forward pass.
_ENTERED = {
    function: _unchecked(function)
    for function in (
        Tensor.backward,
        torch.autograd.backward,
        torch.autograd.grad,
        F.multi_head_attention_forward,
        F.gumbel_softmax,
    )
    if isinstance(function, types.FunctionType)
}
