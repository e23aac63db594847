"""Lanes that share a row in a kernel by row, on a CPU and on a GPU.

A row is processed by LANES lanes, a power of two up to 32. Each executes the source with its own LANE. On a CPU, and on
a GPU if rows are short, there is one lane. On a GPU lanes are neighboring threads of a warp, so that

    for (long long k = LANE; k < m; k += LANES) sum += x[k];
    sum = sum_lanes<LANES>(sum);

reads complete cache lines. A lane may read what another one wrote only after `sync_lanes<LANES>()`. Lane 0 writes the
outputs that have one value per row. lanes_cpu.h and lanes_cuda.h define these functions.
"""

from __future__ import annotations

import re

WARP = 32
_LANES = re.compile(r"\bLANES\b")


def uses_lanes(source: str) -> bool:
    """True if a source by row can be executed by several lanes."""
    return _LANES.search(source) is not None


def row_sum(each: str, then: str, first: str = "", of: str = "T") -> str:
    """The source by row that adds up a row.

    Parameters
    ----------
    each : str
        C++ statements that add the term of column k to `sum`.
    then : str
        C++ statements after the loop, which use the total `sum`.
    first : str
        C++ statements before the loop.
    of : str
        The type of `sum`.
    """
    return f"""
{of} sum = ({of})0;
{first}
for (long long k = LANE; k < m; k += LANES) {{ {each} }}
sum = sum_lanes<LANES>(sum);
{then}
"""
