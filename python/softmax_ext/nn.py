"""Modules with the constructors of ``torch.nn``, and more options. They can be scripted and exported."""

from __future__ import annotations

import inspect
import math
import warnings

import torch
from torch import Tensor

from . import calibration, functional


def _implicit_dim(rank: int) -> int:
    """The dim that ``torch.nn`` takes where none is given."""
    if rank == 0 or rank == 1 or rank == 3:
        return 0
    return 1


def _warned_implicit_dim(name: str, rank: int) -> int:
    warnings.warn(
        f"Implicit dimension choice for {name} has been deprecated. Change the call to include dim=X as an argument.",
        stacklevel=5,
    )
    return _implicit_dim(rank)


class Softmax(torch.nn.Softmax):
    """:func:`softmax_ext.softmax` as a module.

    Args:
        dim: As in :class:`torch.nn.Softmax`.
        temperature: A number, a tensor or a :class:`torch.nn.Parameter` (then it is learned).
    """

    def __init__(self, dim: int | None = None, *, temperature: float | Tensor | None = None) -> None:
        super().__init__(dim)
        _set_temperature(self, temperature)

    def forward(self, input: Tensor) -> Tensor:
        """``input``: logits of any shape; returns probabilities of the same shape."""
        if torch.jit.is_scripting():
            dim = self.dim
            if dim is None:
                dim = _implicit_dim(input.dim())
            return torch.ops.softmax_ext.softmax(input, dim, temperature=self.temperature)
        else:  # scripting compiles what follows an early return, but not this branch
            dim = _warned_implicit_dim("softmax", input.dim()) if self.dim is None else self.dim
            return functional.softmax(input, dim, temperature=self.temperature)

    def extra_repr(self) -> str:
        return _extra_repr(self)


class LogSoftmax(torch.nn.LogSoftmax):
    """:func:`softmax_ext.log_softmax` as a module; arguments as for :class:`Softmax`."""

    def __init__(self, dim: int | None = None, *, temperature: float | Tensor | None = None) -> None:
        super().__init__(dim)
        _set_temperature(self, temperature)

    def forward(self, input: Tensor) -> Tensor:
        """``input``: logits of any shape; returns log-probabilities of the same shape."""
        if torch.jit.is_scripting():
            dim = self.dim
            if dim is None:
                dim = _implicit_dim(input.dim())
            return torch.ops.softmax_ext.log_softmax(input, dim, temperature=self.temperature)
        else:  # scripting compiles what follows an early return, but not this branch
            dim = _warned_implicit_dim("log_softmax", input.dim()) if self.dim is None else self.dim
            return functional.log_softmax(input, dim, temperature=self.temperature)

    def extra_repr(self) -> str:
        return _extra_repr(self)


class CrossEntropyLoss(torch.nn.CrossEntropyLoss):
    """:func:`softmax_ext.cross_entropy` as a module, with the constructor of :class:`torch.nn.CrossEntropyLoss` and the
    options of the function. ``temperature`` as for :class:`Softmax`."""

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        *,
        temperature: float | Tensor | None = None,
        softcap: float | None = None,
        z_loss: float = 0.0,
        empty: str = "nan",
        gradient: str = "recompute",
    ) -> None:
        super().__init__(weight, size_average, ignore_index, reduce, reduction, label_smoothing)
        _reduction_code(self.reduction)
        _check_choice("empty", empty, ["nan", "zero"])
        _check_choice("gradient", gradient, ["recompute", "forward", "inplace"])
        _set_temperature(self, temperature)
        self.softcap = _checked_softcap(self, softcap)
        self.z_loss = _checked_z_loss(self, z_loss)
        self.empty = empty
        self.gradient = gradient

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """``input``: logits ``[N, C, …]`` or ``[C]``; ``target``: class indices ``[N, …]`` or ``[]``, or probabilities
        of ``input``'s shape."""
        return torch.ops.softmax_ext.cross_entropy(
            input,
            target,
            self.weight,
            _reduction_code(self.reduction),
            self.ignore_index,
            self.label_smoothing,
            self.temperature,
            self.softcap,
            self.z_loss,
            self.empty,
            self.gradient,
        )

    def extra_repr(self) -> str:
        return _options_repr(self)


class LinearCrossEntropyLoss(torch.nn.Module):
    """:func:`softmax_ext.linear_cross_entropy` as a module that holds the layer, with the constructor of
    :class:`torch.nn.LinearCrossEntropyLoss` (torch 2.13 and later) but for its ``options``, and the options of the
    function. ``temperature`` as for :class:`Softmax`.

    Args:
        in_features: Features of the input.
        num_classes: How many there are.
        out_features: Further dims of the outputs of each class, as in torch.
        bias: Whether the layer has one.
        device, dtype: Those of the layer, ``self.linear``.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        out_features: tuple[int, ...] = (),
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        reduction: str = "mean",
        weight: Tensor | None = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        temperature: float | Tensor | None = None,
        softcap: float | None = None,
        z_loss: float = 0.0,
        empty: str = "nan",
        gradient: str = "forward",
        chunk: int | None = None,
    ) -> None:
        super().__init__()
        if weight is not None and weight.shape != (num_classes,):
            raise RuntimeError(
                f"LinearCrossEntropyLoss: expected weight of shape [{num_classes}], got {list(weight.shape)}"
            )
        if not 0 <= label_smoothing <= 1:
            raise RuntimeError(f"LinearCrossEntropyLoss: expected label_smoothing in [0, 1], got {label_smoothing}")
        _reduction_code(reduction)
        _check_choice("empty", empty, ["nan", "zero"])
        _check_choice("gradient", gradient, ["forward", "recompute"])
        _set_temperature(self, temperature)
        outputs = num_classes * math.prod(out_features)
        self.linear = torch.nn.Linear(in_features, outputs, bias=bias, device=device, dtype=dtype)
        self.register_buffer("weight", weight)
        self.layer_shape = [num_classes, *out_features, in_features]
        self.reduction = reduction
        self.ignore_index = ignore_index
        self.label_smoothing = float(label_smoothing)
        self.softcap = _checked_softcap(self, softcap)
        self.z_loss = _checked_z_loss(self, z_loss)
        self.empty = empty
        self.gradient = gradient
        if chunk is not None and chunk < 1:
            raise ValueError(f"LinearCrossEntropyLoss: expected a chunk > 0, got {chunk}")
        self.chunk = chunk

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """``input``: ``[…, features]``; ``target``: class indices ``[…]`` or probabilities ``[…, C]``."""
        linear_weight, linear_bias = self.linear.weight, self.linear.bias
        if len(self.layer_shape) > 2:
            linear_weight = linear_weight.reshape(self.layer_shape)
            if linear_bias is not None:
                linear_bias = linear_bias.reshape(self.layer_shape[:-1])
        return torch.ops.softmax_ext.linear_cross_entropy(
            input,
            linear_weight,
            target,
            linear_bias,
            self.weight,
            _reduction_code(self.reduction),
            self.ignore_index,
            self.label_smoothing,
            self.temperature,
            self.softcap,
            self.z_loss,
            self.empty,
            self.gradient,
            self.chunk,
        )

    def extra_repr(self) -> str:
        options = _options_repr(self)
        return f"num_classes={self.layer_shape[0]}" + (f", {options}" if options else "")


def _options_repr(module: torch.nn.Module) -> str:
    """The options that are not the default."""
    parameters = inspect.signature(type(module).__init__).parameters
    options = {  # those that are no attribute are of the layer, or deprecated and kept as the reduction
        name: (getattr(module, name), parameter.default)
        for name, parameter in parameters.items()
        if hasattr(module, name)
    }
    return ", ".join(
        f"{name}={_shown(value)}"
        for name, (value, default) in options.items()
        if isinstance(value, Tensor) or value != default
    )


def _checked_softcap(module: torch.nn.Module, softcap: float | None) -> float | None:
    if softcap is not None and not 0 < softcap < float("inf"):
        raise ValueError(f"{type(module).__name__}: expected a finite softcap > 0, got {softcap}")
    return None if softcap is None else float(softcap)


def _checked_z_loss(module: torch.nn.Module, z_loss: float) -> float:
    if not z_loss >= 0:
        raise ValueError(f"{type(module).__name__}: expected z_loss >= 0, got {z_loss}")
    return float(z_loss)


class TemperatureScaling(torch.nn.Module):
    """Turns logits into calibrated probabilities ``softmax(logits / T)``, with a T that :meth:`fit` finds on held-out data.

    As the last layer of a trained classifier, say ``torch.nn.Sequential(classifier, scaling)``. No prediction changes: T
    keeps the order of the classes.

    T is a buffer, float32, and not a parameter: it is saved and loaded with the model, but an optimizer of the model's
    parameters, with its weight decay, leaves it alone. (To learn T by gradients, give :class:`Softmax` a parameter.) What
    converts the module to 16 bits rounds it.

    Args:
        dim: That of the classes: 1, as in :func:`softmax_ext.cross_entropy`, or -1 for the logits of a language model.
        temperature: Until :meth:`fit` is called, or its state is loaded.
    """

    def __init__(self, dim: int = 1, temperature: float = 1.0) -> None:
        super().__init__()
        if not temperature >= 0:
            raise ValueError(f"TemperatureScaling: expected a temperature of at least 0, got {temperature}")
        self.dim = dim
        self.register_buffer("temperature", torch.tensor(float(temperature)))

    def fit(
        self,
        input: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        *,
        min_temperature: float = 0.05,
        max_temperature: float = 20.0,
    ) -> calibration.TemperatureFit:
        """Sets T to the result of :func:`softmax_ext.fit_temperature`, which says what the arguments are, and returns
        it. ``input``: held-out logits with the classes in ``dim``; ``target``: of its shape without ``dim``."""
        classes_second = input.movedim(self.dim, min(1, input.dim() - 1))
        result = calibration.fit_temperature(
            classes_second,
            target,
            weight,
            ignore_index,
            min_temperature=min_temperature,
            max_temperature=max_temperature,
        )
        self.temperature.fill_(result.temperature)
        return result

    def forward(self, input: Tensor) -> Tensor:
        """``input``: logits; returns probabilities of the same shape."""
        return torch.ops.softmax_ext.softmax(input, self.dim, temperature=self.temperature)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, temperature={self.temperature.item():.4g}"


def _check_choice(name: str, value: str, choices: list[str]) -> None:
    if value not in choices:
        *first, last = (repr(choice) for choice in choices)
        raise ValueError(f"CrossEntropyLoss: expected {name} {', '.join(first)} or {last}, got {value!r}")


def _reduction_code(reduction: str) -> int:
    if reduction == "none":
        return 0
    if reduction == "mean":
        return 1
    if reduction == "sum":
        return 2
    raise ValueError(f"CrossEntropyLoss: expected reduction 'none', 'mean' or 'sum', got '{reduction}'")


def _set_temperature(module: torch.nn.Module, temperature: float | Tensor | None) -> None:
    """A parameter stays one, another tensor becomes a buffer, a number a float (so that it scripts)."""
    if isinstance(temperature, Tensor) and not isinstance(temperature, torch.nn.Parameter):
        module.register_buffer("temperature", temperature)
    elif temperature is None or isinstance(temperature, Tensor):
        module.temperature = temperature
    else:
        module.temperature = float(temperature)
        if not module.temperature >= 0:
            raise ValueError(f"{type(module).__name__}: expected a temperature of at least 0, got {temperature}")


def _extra_repr(module: Softmax | LogSoftmax) -> str:
    return f"dim={module.dim}" + ("" if module.temperature is None else f", temperature={_shown(module.temperature)}")


def _shown(option: object) -> str:
    if not isinstance(option, Tensor):
        return repr(option)
    return f"{'Parameter' if isinstance(option, torch.nn.Parameter) else 'Tensor'}{list(option.shape)}"
