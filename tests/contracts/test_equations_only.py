"""Layers, activations, losses, metrics, optimizers, schedules and initializers contain equations and nothing else."""

import ast

import pytest
from helpers import ROOT

from .test_imports import dependencies, sources

PACKAGES = ("initializers", "activations", "losses", "schedules", "layers", "optimizers", "metrics")
ALLOWED = {*PACKAGES, "program", "kernels", "validation", "registry"}
NAMES = {"out", "allocate", "keep", "held"}  # of buffers, which only passes know


def names_of_buffers(text):
    """The keyword arguments, attributes, variables and functions of a source that are named as in `NAMES`."""
    for node in ast.walk(ast.parse(text)):
        for field in ("arg", "attr", "id", "name"):
            if getattr(node, field, None) in NAMES:
                yield node.lineno, getattr(node, field)


FILES = {name: path for name, path in sources(ROOT).items() if name.split(".")[1:2] and name.split(".")[1] in PACKAGES}


def test_every_package_is_found():
    assert {name.split(".")[1] for name in FILES} == set(PACKAGES)


def test_they_import_only_programs_kernels_checks_and_one_another():
    imported = {name: {other.split(".")[1] for other in found} for name, found in dependencies(ROOT).items()}
    assert {name: found - ALLOWED for name, found in imported.items() if name in FILES and found - ALLOWED} == {}


@pytest.mark.parametrize("name", FILES)
def test_they_know_no_buffers(name):
    text = FILES[name].read_text(encoding="utf-8")
    # two metrics and the schedules compute with NumPy on the host, after the step
    found = [(line, word) for line, word in names_of_buffers(text) if not _is_numpy_on_the_host(text, line)]
    assert found == []


def _is_numpy_on_the_host(text, line):
    return "np." in text.split("\n")[line - 1]


@pytest.mark.parametrize(
    "text", ["kernel('relu')(z, out=a)", "def allocate(self): ...", "ops.keep(x)", "held = {}", "ops.keep = 1"]
)
def test_a_buffer_is_found(text):
    assert len(list(names_of_buffers(text))) == 1
