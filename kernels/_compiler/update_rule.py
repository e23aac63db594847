"""An update rule over the flat buffer of parameters, and the trial of it that writes nothing."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..step import IF_NEAR_OVERFLOW, IF_UPDATING
from .registry import Kernel, elementwise, reduction


@dataclass(frozen=True)
class UpdateRule:
    """`update` writes θ and the moments; `holding` does, and writes θ once more, as products read it; `probe` adds
    (x − x) of every value that `update` would write: 0, or NaN."""

    update: Kernel
    update_with_bf16_copy: Kernel
    probe: Kernel


def update_rule(
    slots: str = "", source: str = "", *, prologue: str = "", scalars: tuple[str, ...] = ()
) -> Callable[[Callable[..., Any]], UpdateRule]:
    """Declare an update rule by its text for one parameter: g the gradient, theta the parameter, `slots` moments."""
    names = ["theta", *slots.split()]
    numbers = "".join(f", scalar float64 {s}" for s in scalars)

    def declare(reference: Callable[..., Any]) -> UpdateRule:
        name, module = reference.__name__, reference.__module__
        update = elementwise(
            f"T g, raw float64 state{numbers} -> " + ", ".join(f"inout T {x}" for x in names),
            source,
            prologue=prologue,
            guard=IF_UPDATING,
            module=module,
        )(reference)

        def twice(**arguments: Any) -> Any:
            result = reference(**arguments)
            results = result if isinstance(result, tuple) else (result,)
            return (*results, results[0])

        twice.__doc__ = f"{reference.__doc__}\n\nAnd held ← θ."
        twice.__signature__ = inspect.signature(reference)  # type: ignore[attr-defined]
        # a family of their own: they are compiled where they are wanted
        update_with_bf16_copy = elementwise(
            f"T g, raw float64 state{numbers} -> " + ", ".join(f"inout T {x}" for x in names) + ", H held",
            f"{source} held = theta;",
            prologue=prologue,
            guard=IF_UPDATING,
            name=f"{name}_with_bf16_copy",
            module=f"{__package__}.holding",
        )(twice)

        def trial(**arguments: Any) -> Any:
            result = reference(**arguments)
            return sum(x - x for x in (result if isinstance(result, tuple) else (result,)))

        trial.__doc__ = f"Σ (x − x) over every value that {name} would write: 0, or NaN where one is not finite."
        keyword = inspect.Parameter.KEYWORD_ONLY
        parameters = [inspect.Parameter(p, keyword) for p in inspect.signature(reference).parameters]
        trial.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        copies = " ".join(f"T {x} = {x}_;" for x in names)
        aliased = ", ".join(f"T {x}_" for x in names)
        # the text writes its operands, so the trial gives it copies under their names
        probe = reduction(
            f"T g, {aliased}, raw float64 state{numbers} -> float64 s",
            f"{copies} {{ {source} }} s = (double)(" + " + ".join(f"({x} - {x})" for x in names) + ");",
            axis="all",
            prologue=prologue,
            guard=IF_NEAR_OVERFLOW,
            name=f"{name}_probe",
            module=module,
        )(_renamed(trial, names))
        return UpdateRule(update, update_with_bf16_copy, probe)

    return declare


def _renamed(trial: Callable[..., Any], names: list[str]) -> Callable[..., Any]:
    """The trial with θ and the moments under the names that its signature gives them: theta_, m_, v_."""

    def reference(**arguments: Any) -> Any:
        return trial(**{(k[:-1] if k[:-1] in names and k.endswith("_") else k): v for k, v in arguments.items()})

    reference.__doc__ = trial.__doc__
    reference.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(f"{p}_" if p in names else p, inspect.Parameter.KEYWORD_ONLY)
            for p in inspect.signature(trial).parameters
        ]
    )
    return reference
