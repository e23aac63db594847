"""Mini-batches from the caller's table: rows in shuffled or original order, converted to the network's type.

The table keeps its type and layout; only the rows of one batch are converted. The offset of the batch is an entry of
the state array. The caller checks `order` against the number of rows.
"""

from ._compiler.registry import by_row
from .state import StateEntry

_CONVERT = """
if (column_step == 1) convert_row<LANES>(from, x, m);
else for (long long k = LANE; k < m; k += LANES) x[k] = (T)from[k * column_step];
"""


@by_row(
    "raw S source, raw int64 order, raw float64 state, scalar int64 row_step, scalar int64 column_step -> rows[m] H x",
    f"const S* from = source + order[(long long)state[OFFSET] + i] * row_step;{_CONVERT}",
    reads=(StateEntry.OFFSET,),
)
def gather(i, source, order, state, row_step, column_step):
    """xᵢ = source[order[offset + i]]; the steps are the strides of `source` in elements. (step 1 of the procedure)"""
    rows = order[int(state[StateEntry.OFFSET]) + i]
    # take() is faster, but copies the entire table unless it is contiguous
    return source.take(rows, axis=0, mode="clip") if source.flags.c_contiguous else source[rows]


@by_row(
    "raw int32 source, raw int64 order, raw float64 state -> int32 y",
    "y = source[order[(long long)state[OFFSET] + i]];",
    reads=(StateEntry.OFFSET,),
)
def gather_labels(i, source, order, state):
    """yᵢ = source[order[offset + i]]: the labels of a batch."""
    return source.take(order[int(state[StateEntry.OFFSET]) + i], mode="clip")


@by_row(
    "raw S source, raw float64 state, scalar int64 row_step, scalar int64 column_step -> rows[m] H x",
    f"const S* from = source + ((long long)state[OFFSET] + i) * row_step;{_CONVERT}",
    reads=(StateEntry.OFFSET,),
)
def copy_rows(i, source, state, row_step, column_step):
    """xᵢ = source[offset + i]: consecutive rows, for prediction and evaluation."""
    first = int(state[StateEntry.OFFSET])
    return source[first + i[0] : first + i[-1] + 1]


@by_row(
    "raw int32 source, raw float64 state -> int32 y",
    "y = source[(long long)state[OFFSET] + i];",
    reads=(StateEntry.OFFSET,),
)
def copy_labels(i, source, state):
    """yᵢ = source[offset + i]: the labels of consecutive rows."""
    first = int(state[StateEntry.OFFSET])
    return source[first + i[0] : first + i[-1] + 1]
