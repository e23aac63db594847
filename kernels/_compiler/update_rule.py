"""Declaration of an optimizer's update rule over the flat parameter buffer, from which three kernels are made."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ..step import IF_NEAR_OVERFLOW, IF_UPDATING
from .registry import Kernel, elementwise, reduction


@dataclass(frozen=True, eq=False)
class UpdateRule:
    """The kernels of an update rule. A rule equals itself only.

    update                 writes θ and the slots
    update_with_bf16_copy  also writes the copy of θ that matrix products read
    probe                  adds x − x over all values that `update` would write: 0, or NaN if one is not finite
    """

    update: Kernel
    update_with_bf16_copy: Kernel
    probe: Kernel


def update_rule(
    slots: str = "",
    source: str = "",
    *,
    reads: tuple[int, ...],
    prologue: str = "",
    scalars: tuple[str, ...] = (),
) -> Callable[[Callable[..., Any]], UpdateRule]:
    """Declare an update rule. Decorates its NumPy reference, which returns θ and the slots.

    Parameters
    ----------
    slots : str
        Names of the optimizer's slots, for example "m v".
    source : str
        C++ statements for one parameter: g is the gradient, theta the parameter.
    reads : tuple of StateEntry
        The entries of the state array that source and prologue read.
    prologue : str
        C++ statements before the loop.
    scalars : tuple of str
        Names of the hyperparameters.
    """
    written = ["theta", *slots.split()]
    numbers = "".join(f", scalar float64 {s}" for s in scalars)
    signature = f"T g, raw float64 state{numbers} -> " + ", ".join(f"inout T {x}" for x in written)

    def declare(reference: Callable[..., Any]) -> UpdateRule:
        update = elementwise(
            signature, source, prologue=prologue, guard=IF_UPDATING, reads=reads, module=reference.__module__
        )(reference)
        # compiled separately, because most fits do not need it
        update_with_bf16_copy = elementwise(
            f"{signature}, H theta_copy",
            f"{source} theta_copy = theta;",
            prologue=prologue,
            guard=IF_UPDATING,
            reads=reads,
            name=f"{reference.__name__}_with_bf16_copy",
            module=f"{__package__}.with_bf16_copy",
        )(_reference_with_copy(reference))
        return UpdateRule(update, update_with_bf16_copy, _probe(reference, written, source, numbers, prologue, reads))

    return declare


def _outputs(reference: Callable[..., Any], arguments: dict[str, Any]) -> tuple[Any, ...]:
    result = reference(**arguments)
    return result if isinstance(result, tuple) else (result,)


def _with_parameters(function: Callable[..., Any], names: Iterable[str]) -> Callable[..., Any]:
    """Set the parameters that `inspect` reports for a function of keyword arguments."""
    parameters = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in names]
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return function


def _reference_with_copy(reference: Callable[..., Any]) -> Callable[..., Any]:
    def update_and_copy(**arguments: Any) -> Any:
        results = _outputs(reference, arguments)
        return (*results, results[0])

    update_and_copy.__doc__ = f"{reference.__doc__}\n\nAnd theta_copy ← θ."
    return _with_parameters(update_and_copy, inspect.signature(reference).parameters)


def _probe(
    reference: Callable[..., Any],
    written: list[str],
    source: str,
    numbers: str,
    prologue: str,
    reads: tuple[int, ...],
) -> Kernel:
    """The kernel that computes an update without writing it.

    The source assigns its operands, so they are passed as theta_, m_, … and copied to theta, m, ….
    """

    def differences(**arguments: Any) -> Any:
        return sum(x - x for x in _outputs(reference, {k.removesuffix("_"): v for k, v in arguments.items()}))

    differences.__doc__ = f"Σ (x − x) over all values that {reference.__name__} would write: 0, or NaN."
    names = inspect.signature(reference).parameters
    copies = " ".join(f"T {x} = {x}_;" for x in written)
    declare = reduction(
        f"T g, {', '.join(f'T {x}_' for x in written)}, raw float64 state{numbers} -> float64 s",
        f"{copies} {{ {source} }} s = (double)(" + " + ".join(f"({x} - {x})" for x in written) + ");",
        axis="all",
        prologue=prologue,
        guard=IF_NEAR_OVERFLOW,
        reads=reads,
        name=f"{reference.__name__}_probe",
        module=reference.__module__,
    )
    return declare(_with_parameters(differences, (f"{p}_" if p in written else p for p in names)))
