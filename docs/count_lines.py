"""Count the lines of code of gpunn/ and kernels/: python docs/count_lines.py.

Docstrings, comments and blank lines do not count. CI checks that the files are formatted.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
CPP_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)


def code_lines(path: Path) -> int:
    """The number of lines of code of a file in Python, C++ or CUDA."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        return sum(bool(line.strip()) for line in CPP_COMMENT.sub("", text).splitlines())
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines.difference_update(range(node.lineno, node.end_lineno + 1 if node.end_lineno else 0))
    return len(lines)


def count(root: Path) -> Counter[str]:
    """The lines of code by package."""
    found: Counter[str] = Counter()
    for folder in ("gpunn", "kernels"):
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in (".py", ".cpp", ".h", ".cuh"):
                parts = path.relative_to(root).parts
                found["/".join(parts[:2]) if len(parts) > 2 else parts[0]] += code_lines(path)
    return found


if __name__ == "__main__":
    for name, lines in sorted(count(ROOT).items()):
        print(f"{lines:6d}  {name}")
    print(f"{count(ROOT).total():6d}  together")
