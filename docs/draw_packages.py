"""Draw the packages of gpunn and their imports: python docs/draw_packages.py writes docs/architecture.svg.

Each package stands below all packages that it imports, so every arrow points up. An import that follows from others
has no arrow.
"""

from __future__ import annotations

import ast
import functools
import graphlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = {"_version", "__main__"}
WIDTH, BOX_WIDTH, BOX_HEIGHT, ROW_HEIGHT, GAP = 980, 142, 36, 70, 14


def module_name(root: Path, path: Path) -> str:
    """ "gpunn.layers.dense" of gpunn/layers/dense.py, "gpunn.kernels.relu" of kernels/relu.py."""
    parts = path.relative_to(root).with_suffix("").parts
    parts = ("gpunn", *parts) if parts[0] == "kernels" else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources(root: Path) -> dict[str, Path]:
    """The file of every module of the library, by module name."""
    paths = [*(root / "gpunn").rglob("*.py"), *(root / "kernels").rglob("*.py")]
    return {module_name(root, path): path for path in sorted(paths)}


def imports(root: Path, path: Path) -> set[str]:
    """The absolute names of everything that a file imports, inside functions and for type checkers too."""
    name = module_name(root, path).split(".")
    package = name if path.stem == "__init__" else name[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else []
            base = [*parents, *(node.module.split(".") if node.module else [])]
            found |= {".".join([*base, alias.name]) for alias in node.names}
    return found


def dependencies(root: Path) -> dict[str, set[str]]:
    """The modules of the library that each of its modules imports, without `gpunn` itself, which imports lazily."""
    modules = sources(root)

    def module_of(name: str) -> str:
        while name and name not in modules:
            name = name.rpartition(".")[0]
        return name

    graph = {}
    for name, path in modules.items():
        if name != "gpunn":
            graph[name] = {module_of(imported) for imported in imports(root, path)} - {"", "gpunn", name}
    return graph


def packages(root: Path) -> dict[str, set[str]]:
    """The packages and single modules of gpunn that each of them imports. CycleError names those of a cycle."""
    graph: dict[str, set[str]] = {}
    for name, imported in dependencies(root).items():
        here = name.split(".")[1]
        found = {other.split(".")[1] for other in imported} - {here}
        if here not in LEFT_OUT:
            graph.setdefault(here, set()).update(found - LEFT_OUT)
    graphlib.TopologicalSorter(graph).prepare()
    return graph


def draw(root: Path) -> str:
    """The picture as SVG."""
    graph = packages(root)

    @functools.cache
    def level(name: str) -> int:
        return 1 + max(map(level, graph[name]), default=-1)

    @functools.cache
    def behind(name: str) -> frozenset[str]:
        return frozenset(graph[name]).union(*map(behind, graph[name]))

    rows: list[list[str]] = [[] for _ in range(1 + max(map(level, graph)))]
    for name in sorted(graph):
        rows[level(name)].append(name)
    centre: dict[str, tuple[float, float]] = {}
    for y, row in enumerate(rows):
        left = (WIDTH - len(row) * (BOX_WIDTH + GAP) + GAP) / 2
        centre |= {
            name: (left + k * (BOX_WIDTH + GAP) + BOX_WIDTH / 2, 40 + y * ROW_HEIGHT) for k, name in enumerate(row)
        }
    arrows = [
        _arrow(centre[name], centre[other])
        for name in sorted(graph)
        for other in sorted(graph[name])
        if not any(other in behind(between) for between in graph[name])
    ]
    boxes = [_box(*centre[name], name) for row in rows for name in row]
    height = 40 + len(rows) * ROW_HEIGHT
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
            'font-size="14">',
            "  <title>Packages of gpunn: each imports only packages above it</title>",
            '  <defs><marker id="arrow" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
            'orient="auto"><path d="M0 0 L10 5 L0 10 z" fill="#777"/></marker></defs>',
            f'  <rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
            *arrows,
            *boxes,
            "</svg>",
            "",
        ]
    )


def _arrow(user: tuple[float, float], imported: tuple[float, float]) -> str:
    (x1, y1), (x2, y2) = user, imported
    y1, y2 = y1 - BOX_HEIGHT / 2, y2 + BOX_HEIGHT / 2 + 2
    bend = min(60.0, (y1 - y2) / 2)
    curve = f"M{x1:g} {y1:g} C{x1:g} {y1 - bend:g} {x2:g} {y2 + bend:g} {x2:g} {y2:g}"
    return f'  <path d="{curve}" fill="none" stroke="#777" marker-end="url(#arrow)"/>'


def _box(x: float, y: float, name: str) -> str:
    shape = f'x="{x - BOX_WIDTH / 2:g}" y="{y - BOX_HEIGHT / 2:g}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="6"'
    text = f'<text x="{x:g}" y="{y + 5:g}" text-anchor="middle">{name}</text>'
    return f'  <rect {shape} fill="#dbe9f6" stroke="#444"/>{text}'


if __name__ == "__main__":
    (ROOT / "docs" / "architecture.svg").write_text(draw(ROOT), encoding="utf-8")
