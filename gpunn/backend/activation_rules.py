"""Rules that every device has: bias and activation in one kernel."""

from __future__ import annotations

from ..kernels import all_activations
from ..program import Rule

Declared = tuple[tuple[str, str], ...]


def declared_activations() -> Declared:
    """(name, stored array) of every activation with kernels but the identity; a key for caches of rules."""
    return tuple(sorted((k.name, k.stored) for k in all_activations() if k.name != "identity"))


def bias_activation_rules(activations: Declared) -> list[Rule]:
    """One rule per activation: a = f(s + b) in one pass, and z where f′ is computed from it."""
    return [
        Rule(f"z = add_row(s, b); a = {name}(z)", f"{'a' if stored == 'a' else 'z, a'} = bias_{name}(s, b)")
        for name, stored in activations
    ]
