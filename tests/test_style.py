"""Language and size rules that a program can decide: docstrings, banned words, lengths of files and functions."""

import ast
import inspect
import io
import re
import tokenize
from functools import cache
from pathlib import Path

import pytest

import gpunn

ROOT = Path(__file__).resolve().parents[1]
PUBLIC = """
activations backend initializers interchange kernels layers losses metrics optimizers program schedules theory
""".split()
FOLDERS = ("gpunn", "kernels", "benchmarks", "tests", "docs")
MAX_FILE, MAX_FUNCTION = 400, 40  # lines of code, without docstrings, comments and blank lines

# files and functions that may be longer, each with its reason; at most ten
LONG: dict[str, str] = {}

FIRST_WORDS = "What Whether Who How Where That Those So Of".split()
PHRASES = (
    "anew|so many|whoever|nobody|in the place of|beside|meanwhile|hangs? on|by itself|comes? to|told|rightly|, say,|"
    "of one's own|as they stand|aloud|at once|is believed|is taken for|makes up for"
)
PARTS = set("abreast placing course courses unwatched examination staging Door Walk meets judged".split())
BANNED_NAME = re.compile("(?:^|_)(?:is_the_product|print_of|look_there|how_many|in_turn)(?:$|_)")


def _files(*suffixes):
    for folder in FOLDERS:
        yield from sorted(p for p in (ROOT / folder).rglob("*") if p.suffix in suffixes and "results" not in p.parts)


def _name(path):
    return path.relative_to(ROOT).as_posix()


PYTHON = list(_files(".py"))
PROSE = [p for p in _files(".py", ".md", ".h", ".cpp") if p != Path(__file__).resolve()]
PROSE += [
    ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "pyproject.toml", ".ci/run", ".ci/full")
]
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@cache
def _tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def _public():
    """Every public object as (name, object): the exports of gpunn and its public modules, and methods of classes."""
    for module in (gpunn, *(getattr(gpunn, name) for name in PUBLIC)):
        for name in getattr(module, "__all__", [n for n in vars(module) if not n.startswith("_")]):
            value = getattr(module, name)
            if getattr(value, "__module__", "").startswith("gpunn"):
                yield f"{module.__name__}.{name}", value
                if inspect.isclass(value):
                    members = [n for n in vars(value) if not n.startswith("_")]
                    yield from ((f"{module.__name__}.{name}.{n}", getattr(value, n)) for n in members)


def _docstrings(path):
    for node in ast.walk(_tree(path)):
        if isinstance(node, (ast.Module, *DEFINITIONS)) and (text := ast.get_docstring(node)):
            yield getattr(node, "name", "the module"), text


@cache
def _code_lines(path):
    """The numbers of the lines with code: no docstrings, comments or blank lines."""
    skip = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
        if token.type not in skip:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines.difference_update(range(node.lineno, node.end_lineno + 1))
    return frozenset(lines)


def _too_long(path):
    lines = _code_lines(path)
    if len(lines) > MAX_FILE:
        yield _name(path), len(lines)
    for node in ast.walk(_tree(path)):
        if isinstance(node, DEFINITIONS[:2]):
            length = sum(node.lineno <= k <= node.end_lineno for k in lines)
            if length > MAX_FUNCTION:
                yield f"{_name(path)}:{node.name}", length


@pytest.mark.parametrize("path", PYTHON, ids=_name)
def test_docstrings_begin_with_a_verb_or_a_noun_phrase(path):
    assert [name for name, text in _docstrings(path) if text.split()[0] in FIRST_WORDS] == []


@pytest.mark.parametrize("path", [p for p in PYTHON if _name(p).startswith(("gpunn/", "kernels/"))], ids=_name)
def test_modules_have_docstrings(path):
    assert ast.get_docstring(_tree(path))


def test_public_objects_have_docstrings():
    pytest.importorskip("sklearn")
    found = [(name, value) for name, value in _public() if callable(value) or isinstance(value, property)]
    assert len(found) > 300 and [name for name, value in found if not inspect.getdoc(value)] == []


@pytest.mark.parametrize("path", PROSE, ids=_name)
def test_banned_phrases_are_absent(path):
    text = " ".join(path.read_text(encoding="utf-8").split())
    assert re.findall(rf"(?<!\w)(?:{PHRASES})(?!\w)", text, re.IGNORECASE) == []


@pytest.mark.parametrize("path", PYTHON, ids=_name)
def test_banned_identifiers_are_absent(path):
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)
    names = {path.stem} | {token.string for token in tokens if token.type == tokenize.NAME}
    assert sorted(name for name in names if set(name.split("_")) & PARTS or BANNED_NAME.search(name)) == []


def test_files_and_functions_are_short():
    found = dict(entry for path in PYTHON for entry in _too_long(path))
    assert found.keys() == LONG.keys(), "each needs a reason in LONG, and a shorter one leaves it"
    assert len(LONG) <= 10
