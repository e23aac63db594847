"""Dropout with counter-based masks: Philox4x32-10 in integers, so that a CPU and a GPU draw the same bits.

The mask of an element is a pure function of (seed, layer, step, element). The backward pass draws it again instead of
reading it from memory, and resuming needs the seed and the step only. Source: Salmon, Moraes, Dror, Shaw, "Parallel
random numbers: as easy as 1, 2, 3" (2011). philox.h contains the rounds in C++.
"""

import numpy as np

from ._compiler.registry import by_row
from .state import StateEntry


def _rounds(c0, c1, c2, c3, k0, k1):
    """Ten rounds of Philox4x32 on uint64 arrays of 32-bit words."""
    low = np.uint64(0xFFFFFFFF)
    shift = np.uint64(32)
    for r in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        key0 = np.uint64((int(k0) + r * 0x9E3779B9) & 0xFFFFFFFF)
        key1 = np.uint64((int(k1) + r * 0xBB67AE85) & 0xFFFFFFFF)
        c0, c1, c2, c3 = (p1 >> shift) ^ c1 ^ key0, p1 & low, (p0 >> shift) ^ c3 ^ key1, p0 & low
    return c0, c1, c2, c3


@by_row(
    "rows[m] uint32 counter, raw uint32 key -> rows[m] uint32 drawn",
    """
enum { BLOCKS = 1 };
unsigned int c0[1] = {counter[0]}, c1[1] = {counter[1]}, c2[1] = {counter[2]}, c3[1] = {counter[3]};
unsigned int k0 = key[0], k1 = key[1];
philox_rounds<BLOCKS>(c0, c1, c2, c3, k0, k1);
drawn[0] = c0[0]; drawn[1] = c1[0]; drawn[2] = c2[0]; drawn[3] = c3[0];
""",
)
def philox(counter, key):
    """Philox4x32-10: four 32-bit numbers per counter of four words, for a key of two words. Shapes (n, 4) and (2,)."""
    words = [counter[:, k].astype(np.uint64) for k in range(4)]
    return np.stack(_rounds(*words, key[0], key[1]), axis=1)


@by_row(
    """raw T x, raw float64 state, scalar uint32 threshold, scalar T factor, scalar uint32 layer, scalar int64 width,
       scalar int64 elements -> raw[x] T y""",
    """
enum { BLOCKS = PHILOX_UNROLL };
// the row of the first of BLOCKS blocks draws all of them
if (i % BLOCKS == 0) {
  const unsigned long long first = (unsigned long long)state[FIRST_ROW] * (unsigned long long)width;
  const unsigned long long block = first / 4 + (unsigned long long)i;
  unsigned int c0[BLOCKS], c1[BLOCKS], c2[BLOCKS], c3[BLOCKS];
  unsigned int k0 = (unsigned int)state[SEED_LOW], k1 = (unsigned int)state[SEED_HIGH];
  const unsigned int step = (unsigned int)state[STEP], net = layer + 65536u * (unsigned int)state[NET_INDEX];
  for (int q = 0; q < BLOCKS; ++q) {
    c0[q] = (unsigned int)(block + q); c1[q] = (unsigned int)((block + q) >> 32); c2[q] = step; c3[q] = net;
  }
  philox_rounds<BLOCKS>(c0, c1, c2, c3, k0, k1);
  const long long begin = (long long)(block * 4 - first);
  if (begin >= 0 && begin + 4 * BLOCKS <= elements) {
    // y may be x: local arrays show the compiler that the elements are independent
    unsigned int drawn[4 * BLOCKS];
    T values[4 * BLOCKS];
    for (int q = 0; q < BLOCKS; ++q) {
      drawn[4 * q] = c0[q]; drawn[4 * q + 1] = c1[q]; drawn[4 * q + 2] = c2[q]; drawn[4 * q + 3] = c3[q];
    }
    load_all<4 * BLOCKS>(x + begin, values);
    for (int e = 0; e < 4 * BLOCKS; ++e) values[e] = drawn[e] >= threshold ? values[e] * factor : (T)0;
    store_all<4 * BLOCKS>(values, y + begin);
  } else for (int q = 0; q < BLOCKS; ++q) for (int lane = 0; lane < 4; ++lane) {
    const long long at = begin + 4 * q + lane;
    const unsigned int drawn = lane == 0 ? c0[q] : (lane == 1 ? c1[q] : (lane == 2 ? c2[q] : c3[q]));
    if (at >= 0 && at < elements) y[at] = drawn >= threshold ? x[at] * factor : (T)0;
  }
}
""",
    reads=(
        StateEntry.STEP,
        StateEntry.FIRST_ROW,
        StateEntry.SEED_LOW,
        StateEntry.SEED_HIGH,
        StateEntry.NET_INDEX,
    ),
    in_place={"y": ("x",)},
    independent_rows=True,
)
def dropout(i, x, state, threshold, factor, layer, width, elements, y):
    """y = x ⊙ k · factor, k = 1 if the element's 32 bits are ≥ threshold = p·2³²; forward and backward. (E11)

    Key = (seed low, seed high), counter = (block low, block high, step, layer + 2¹⁶ net) with block = element // 4 and
    element = (row in the global batch) · width + column. One row of the launch is one block of four elements, so
    count = elements // 4 + 2 covers a batch that begins within a block.
    """
    first = int(state[StateEntry.FIRST_ROW]) * int(width)
    block = np.uint64(first // 4) + i.astype(np.uint64)
    same = np.zeros_like(block)
    words = (
        block & np.uint64(0xFFFFFFFF),
        block >> np.uint64(32),
        same + np.uint64(int(state[StateEntry.STEP]) & 0xFFFFFFFF),
        same + np.uint64(int(layer) + 65536 * int(state[StateEntry.NET_INDEX])),
    )
    drawn = np.stack(_rounds(*words, state[StateEntry.SEED_LOW], state[StateEntry.SEED_HIGH]), axis=1).ravel()
    begin = (first // 4 + int(i[0])) * 4 - first
    low, high = max(begin, 0), min(begin + drawn.size, int(elements))
    if low < high:
        mask = drawn[low - begin : high - begin] >= threshold
        flat_x, flat_y = x.reshape(-1), y.reshape(-1)
        flat_y[low:high] = np.where(mask, flat_x[low:high] * x.dtype.type(factor), 0)
