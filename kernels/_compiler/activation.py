"""Declaration of an activation: the C++ sources of f and f′, from which its kernels are made.

``NAME``                  a = f(z)                                                               (E2)
``NAME_with_derivative``  a = f(z) and d = f′(z) in one pass
``NAME_backward``         δ = f′(z) ⊙ g, with f′ computed from the stored z or a                 (E4, E5)
``NAME_backward_summed``  the same δ, and its sums over rows, if `column_sums=True`              (E5, E7)
``bias_NAME``             a = f(s + b), where s = a_prev W and b are the intercepts              (E1, E2)

The identity has no `bias_NAME`, because `add_row` computes it.

If f′ can be computed from a, z needs no buffer: `stored="a"`. Otherwise `bias_NAME` writes z too.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .registry import Kernel, elementwise
from .summed import summed


@dataclass(frozen=True)
class ActivationKernels:
    """The kernels of an activation.

    stored         "a" or "z": the array from which the derivative is computed
    constants      names of the constants of f, for example ("alpha",)
    f, derivative  NumPy references; `derivative` takes the stored array
    """

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
    """The kernels of the activation with that name."""
    return _ACTIVATIONS[name]


def all_activations() -> list[ActivationKernels]:
    """The kernels of all activations, in the order of their declaration."""
    return list(_ACTIVATIONS.values())


def activation(
    *,
    value: str,
    derivative: str,
    stored: str,
    constants: tuple[str, ...] = (),
    ulp: int = 4,
    column_sums: bool = False,
    with_bias: Kernel | None = None,
) -> Callable[[type], ActivationKernels]:
    """Declare an activation. Decorates a class whose `f` and `derivative` are the NumPy references.

    Parameters
    ----------
    value : str
        C++ statements that assign `a` from `z`.
    derivative : str
        C++ statements that assign `d` from the stored array.
    stored : {"a", "z"}
        The array from which the derivative is computed.
    constants : tuple of str
        Names of the numbers that both functions take.
    ulp : int
        Allowed difference between source and reference, in units in the last place of the largest term.
    column_sums : bool
        Declare `NAME_backward_summed` too.
    with_bias : Kernel, optional
        The kernel of f(s + b). Default: it is made from `value`.
    """
    if stored not in ("a", "z"):
        raise ValueError(f"stored must be 'a' or 'z', got {stored!r}")

    def declare(cls: type) -> ActivationKernels:
        declared = _Declaration(cls, value, derivative, stored, constants, ulp).kernels(with_bias)
        if column_sums:
            summed(declared.backward)
        _ACTIVATIONS[declared.name] = declared
        return declared

    return declare


class _Declaration:
    """The declaration of one activation, which makes its kernels."""

    def __init__(
        self, cls: type, value: str, derivative: str, stored: str, constants: tuple[str, ...], ulp: int
    ) -> None:
        self.cls = cls
        self.value = value
        self.derivative = derivative
        self.stored = stored
        self.constants = constants
        self.ulp = ulp
        self.f = self._function("f")
        self.f_prime = self._function("derivative")

    def _function(self, name: str) -> Callable[..., Any]:
        found = vars(self.cls)[name]
        function: Callable[..., Any] = getattr(found, "__func__", found)
        return function

    def kernels(self, with_bias: Kernel | None) -> ActivationKernels:
        name, stored = self.cls.__name__, self.stored
        scalars = "".join(f", scalar T {c}" for c in self.constants)
        outputs = "H a" if stored == "a" else "H z, H a"
        add_bias = "const T z = s + b;" if stored == "a" else "z = s + b;"
        backward_source = f"T d; {{ {self.derivative} }} delta = d * g;"  # mutate: E5 derivative
        return ActivationKernels(
            name=name,
            stored=stored,
            constants=self.constants,
            value=self._kernel(name, f"H z{scalars} -> H a", self.value, self._value, "a = f(z). (E2)"),
            with_derivative=self._kernel(
                f"{name}_with_derivative",
                f"T z{scalars} -> T a, T d",
                f"{{ {self.value} }} {{ {self.derivative} }}",
                self._with_derivative,
                "a = f(z) and d = f′(z) in one pass. (E2)",
            ),
            backward=self._kernel(
                f"{name}_backward",
                f"H {stored}, H g{scalars} -> H delta",
                backward_source,
                self._backward,
                "δ = f′(z) ⊙ g. (E4, E5)",
            ),
            with_bias=with_bias
            or self._kernel(
                f"bias_{name}",
                f"H s, row T b{scalars} -> {outputs}",
                f"{add_bias} {self.value}",
                self._with_bias,
                "a = f(s + b), s = a_prev W. (E1, E2)",
            ),
            f=self.f,
            derivative=self.f_prime,
        )

    def _kernel(
        self, name: str, signature: str, source: str, function: Callable[[dict[str, Any]], Any], formula: str
    ) -> Kernel:
        def reference(**arguments: Any) -> Any:
            return function(arguments)

        inputs = [operand.split()[-1] for operand in signature.partition("->")[0].split(",")]
        keyword = inspect.Parameter.KEYWORD_ONLY
        parameters = [inspect.Parameter(n, keyword) for n in inputs]
        reference.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        reference.__doc__ = f"{formula}\n\n{inspect.getdoc(self.cls) or ''}"
        declare = elementwise(signature, source, name=name, module=self.cls.__module__, ulp=self.ulp)
        return declare(reference)

    def _constants(self, arguments: dict[str, Any]) -> dict[str, Any]:
        return {c: arguments[c] for c in self.constants}

    def _value(self, arguments: dict[str, Any]) -> Any:
        return self.f(arguments["z"], **self._constants(arguments))

    def _with_derivative(self, arguments: dict[str, Any]) -> tuple[Any, Any]:
        a = self._value(arguments)
        return a, self.f_prime(a if self.stored == "a" else arguments["z"], **self._constants(arguments))

    def _backward(self, arguments: dict[str, Any]) -> Any:
        return self.f_prime(arguments[self.stored], **self._constants(arguments)) * arguments["g"]

    def _with_bias(self, arguments: dict[str, Any]) -> Any:
        z = arguments["s"] + arguments["b"]
        a = self.f(z, **self._constants(arguments))
        return a if self.stored == "a" else (z, a)
