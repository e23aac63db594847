"""An activation is two texts, f and f′, and from them four kernels.

``NAME``           a = f(z)                                                        (E2)
``NAME_slope``     a = f(z) and d = f′(z) in one pass
``NAME_backward``  δ = f′(z) ⊙ g, with f′ from what was stored, z or a             (E4, E5)
``bias_NAME``      a = f(s + b), s the product a_prev W, b the intercepts          (E1, E2)

Where f′ can be had from a, z needs no buffer of its own: `stored="a"`. Otherwise `bias_NAME` writes z as well.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .registry import Kernel, elementwise


@dataclass(frozen=True)
class ActivationKernels:
    """The four kernels of one activation, what its derivative is computed from ("a" or "z"), and its constants."""

    name: str
    stored: str
    constants: tuple[str, ...]
    value: Kernel
    with_derivative: Kernel
    backward: Kernel
    with_bias: Kernel
    f: Callable[..., Any]
    derivative: Callable[..., Any]


_ACTIVATIONS: dict[str, ActivationKernels] = {}


def activation_kernels(name: str) -> ActivationKernels:
    """The kernels of the activation declared under that name."""
    return _ACTIVATIONS[name]


def _body(names: list[str], function: Callable[[dict[str, Any]], Any]) -> Callable[..., Any]:
    """A NumPy body with the given parameter names."""

    def reference(**arguments: Any) -> Any:
        return function(arguments)

    keyword = inspect.Parameter.KEYWORD_ONLY
    reference.__signature__ = inspect.Signature([inspect.Parameter(n, keyword) for n in names])  # type: ignore[attr-defined]
    return reference


def activation(
    *, value: str, derivative: str, stored: str, constants: tuple[str, ...] = (), ulp: int = 4
) -> Callable[[type], ActivationKernels]:
    """Declare an activation: C++ texts that assign `a` from z and `d` from what is stored, and a class whose `f` and
    `slope` are the same two lines in NumPy. `constants` are names of numbers that both take. `ulp` is how far the two
    bodies may part, in units in the last place of the largest term."""
    if stored not in ("a", "z"):
        raise ValueError(f"stored must be 'a' or 'z', got {stored!r}")

    def declare(cls: type) -> ActivationKernels:
        name, module = cls.__name__, cls.__module__
        f, derivative_of = vars(cls)["f"], vars(cls)["derivative"]
        f, derivative_of = getattr(f, "__func__", f), getattr(derivative_of, "__func__", derivative_of)
        numbers = list(constants)
        scalars = "".join(f", scalar T {c}" for c in constants)
        doc = inspect.getdoc(cls) or ""

        def pick(arguments: dict[str, Any]) -> dict[str, Any]:
            return {c: arguments[c] for c in constants}

        def both(arguments: dict[str, Any]) -> tuple[Any, Any]:
            a = f(arguments["z"], **pick(arguments))
            return a, derivative_of(a if stored == "a" else arguments["z"], **pick(arguments))

        def backward(arguments: dict[str, Any]) -> Any:
            return derivative_of(arguments[stored], **pick(arguments)) * arguments["g"]

        def with_bias(arguments: dict[str, Any]) -> Any:
            z = arguments["s"] + arguments["b"]
            a = f(z, **pick(arguments))
            return a if stored == "a" else (z, a)

        def make(
            kernel: str, signature: str, source: str, names: list[str], reference: Callable[..., Any], what: str
        ) -> Kernel:
            declared = elementwise(signature, source, name=kernel, module=module, ulp=ulp)
            made = _body([*names, *numbers], reference)
            made.__doc__ = f"{what}\n\n{doc}"
            return declared(made)

        outputs = "H a" if stored == "a" else "H z, H a"
        aggregate = "const T z = s + b;" if stored == "a" else "z = s + b;"
        _ACTIVATIONS[name] = ActivationKernels(
            name,
            stored,
            constants,
            make(name, f"H z{scalars} -> H a", value, ["z"], lambda k: f(k["z"], **pick(k)), "a = f(z). (E2)"),
            make(
                f"{name}_with_derivative",
                f"T z{scalars} -> T a, T d",
                f"{{ {value} }} {{ {derivative} }}",
                ["z"],
                both,
                "a = f(z) and d = f′(z) in one pass. (E2)",
            ),
            make(
                f"{name}_backward",
                f"H {stored}, H g{scalars} -> H delta",
                f"T d; {{ {derivative} }} delta = d * g;",  # mutate: E5 derivative
                [stored, "g"],
                backward,
                "δ = f′(z) ⊙ g. (E4, E5)",
            ),
            make(
                f"bias_{name}",
                f"H s, row T b{scalars} -> {outputs}",
                f"{aggregate} {value}",
                ["s", "b"],
                with_bias,
                "a = f(s + b), s = a_prev W. (E1, E2)",
            ),
            f,
            derivative_of,
        )
        return _ACTIVATIONS[name]

    return declare
