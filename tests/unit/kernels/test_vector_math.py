"""The functions of vector_math.h: errors, limits of the range, same bits in vectors and remainders.

The reference is NumPy in the next wider type: float64 for float32, long double for float64 if it is wider.
"""

import ctypes
import platform
import subprocess

import numpy as np
import pytest

from gpunn.kernels._compiler import compiler, library_cache, prebuilt, vector_math
from gpunn.kernels._compiler.compiler import Source
from gpunn.kernels._compiler.headers import header

FUNCTIONS = list(vector_math.ULP)
DTYPES = ["float32", "float64"]
WIDER = {"float32": np.float64, "float64": np.longdouble}
C_TYPES = {"float32": "float", "float64": "double"}
ODD = ["expm1", "tanh", "log1p"]  # functions that preserve the sign of zero
COUNT = 20000  # random arguments per interval

pytestmark = [
    pytest.mark.skipif(compiler.find() is None, reason="no C++ compiler was found"),
    pytest.mark.parametrize("dtype", DTYPES),
]


SOURCE = header("vector_math.h")


def _source(header_text=SOURCE):
    """A loop around every function, which is called by its plain name as in a kernel."""
    lines = ["#include <math.h>", "#include <cmath>", header_text]
    for name in FUNCTIONS:
        for dtype, c in C_TYPES.items():
            lines += [
                f'extern "C" void {name}_{dtype}(const {c}* x, {c}* y, long long n) {{',
                "#pragma GCC ivdep",
                f"  for (long long i = 0; i < n; ++i) y[i] = {name}(x[i]);",
                "}",
            ]
    return "\n".join(lines) + "\n"


class Functions:
    """The compiled functions, called by name with an array."""

    def __init__(self, path):
        self.path, self.library = path, ctypes.CDLL(str(path))

    def __call__(self, name, x):
        y = np.empty_like(x)
        run = getattr(self.library, f"{name}_{x.dtype}")
        run(ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(y.ctypes.data), ctypes.c_longlong(x.size))
        return y


@pytest.fixture(scope="module")
def functions():
    return Functions(library_cache.compile_source(Source("test", _source()), compiler.find()))


def _reference(name, x):
    wider = WIDER[str(x.dtype)]
    if np.finfo(wider).nmant <= np.finfo(x.dtype).nmant:
        pytest.skip("long double is no wider than double here")
    with np.errstate(all="ignore"):
        return REFERENCES.get(name, getattr(np, name, None))(x.astype(wider))


def _sin_of_half_turns(u):
    """sin πu for |u| ≤ 1, accurate near its zeros −1, 0 and 1."""
    pi = 4 * np.arctan(u.dtype.type(1))
    return np.sin(pi * np.where(np.abs(u) > 0.5, np.copysign(1, u) - u, u))


def _half_turns(x):
    return x - 2 * np.rint(x / 2)


REFERENCES = {
    "cospi": lambda x: _sin_of_half_turns(x.dtype.type(0.5) - np.abs(_half_turns(x))),
    "sinpi": lambda x: _sin_of_half_turns(_half_turns(x)),
}


def _errors(got, wanted):
    """|got − wanted| in units in the last place of `wanted`, which is wider; 0 if both overflow or are NaN."""
    limits = np.finfo(got.dtype)
    with np.errstate(all="ignore"):
        rounded = wanted.astype(got.dtype)
        np.testing.assert_array_equal(np.isfinite(got), np.isfinite(rounded))
        np.testing.assert_array_equal(got[~np.isfinite(rounded)], rounded[~np.isfinite(rounded)])
        _, exponent = np.frexp(wanted)
        unit = np.ldexp(np.ones_like(wanted), exponent - limits.nmant - 1)
        unit = np.maximum(unit, wanted.dtype.type(limits.smallest_subnormal))
        return np.where(np.isfinite(rounded), np.abs(got - wanted) / unit, 0).astype(np.float64)


# intervals in which the argument reduction changes, and in which the largest errors were found
INTERVALS = {
    "exp": [(-0.36, 0.36), (-3, 3), (-30, 30)],
    "expm1": [(-0.36, 0.36), (0.34, 0.37), (0.35, 1.05), (-1.05, -0.35), (-3, 3), (-45, 45)],
    "tanh": [(0.05, 0.07), (0.1, 0.126), (0.17, 0.35), (-1, 1), (-22, 22)],
    "log1p": [(-0.3, -0.28), (0.4, 0.43), (-0.5, 1), (-1, 3), (0, 1e4)],
    "log": [(0.69, 0.72), (1.38, 1.42), (0.5, 2), (0.99, 1.01), (0, 1e4)],
    "cospi": [(0, 0.25), (0.24, 0.27), (0.49, 0.51), (0.74, 0.76), (-3, 3), (-1e4, 1e4)],
    "sinpi": [(0, 0.25), (0.24, 0.27), (0.99, 1.01), (0.74, 0.76), (-3, 3), (-1e4, 1e4)],
}


def _arguments(name, dtype):
    """Uniform random numbers of each interval, the limits of the range, and all magnitudes."""
    rng, limits = np.random.default_rng(FUNCTIONS.index(name)), np.finfo(dtype)
    least, most = float(np.log(limits.smallest_subnormal)), float(np.log(limits.max))
    parts = [rng.uniform(a, b, COUNT) for a, b in INTERVALS[name]]
    parts += [rng.uniform(least - 2, float(np.log(limits.tiny)), COUNT), rng.uniform(most - 3, most + 2, COUNT)]
    magnitudes = np.exp(rng.uniform(least, most, 2 * COUNT))
    x = np.concatenate([*parts, magnitudes, -magnitudes]).astype(dtype)
    near_minus_one = -1 + 2.0 ** rng.uniform(-limits.nmant, 0, COUNT)
    if name == "log":
        return np.abs(x)
    return np.concatenate([x[x > -1], near_minus_one.astype(dtype)]) if name == "log1p" else x


@pytest.mark.parametrize("name", FUNCTIONS)
def test_errors_are_within_the_stated_bounds(name, dtype, functions):
    x = _arguments(name, dtype)
    errors = _errors(functions(name, x), _reference(name, x))
    worst = int(errors.argmax())
    assert errors[worst] <= vector_math.ULP[name], f"{errors[worst]:.3f} ulp at {x[worst]!r}"


# the coefficients of r³ in eʳ, of s⁵ and of r³ in sin πr, and slightly wrong ones
WRONG = {
    "float32": {
        "exp": ("0x1.555554p-3f", "0.16668f"),
        "log": ("0x1.995ed6p-2f", "0.401f"),
        "sinpi": ("0x1.4abbbep+2f", "5.1678f"),
    },
    "float64": {
        "exp": ("0x1.5555555555559p-3", "0.166666666667"),
        "log": ("0x1.999999997ff20p-2", "0.400000001"),
        "sinpi": ("0x1.4abbce625be46p+2", "5.1677127801"),
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_wrong_coefficient_is_detected(name, dtype):
    family = {"log1p": "log", "cospi": "sinpi"}.get(name, name)
    right, wrong = WRONG[dtype].get(family, WRONG[dtype]["exp"])
    assert SOURCE.count(right) == 1
    library = Functions(
        library_cache.compile_source(Source("test", _source(SOURCE.replace(right, wrong))), compiler.find())
    )
    x = _arguments(name, dtype)
    assert _errors(library(name, x), _reference(name, x)).max() > vector_math.ULP[name]


# --- limits of the range --------------------------------------------------------------------------------------------

INF, NAN = np.inf, np.nan
EDGES = {
    "exp": [(0.0, 1), (-0.0, 1), (INF, INF), (-INF, 0), (NAN, NAN), (1e30, INF), (-1e30, 0)],
    "expm1": [(INF, INF), (-INF, -1), (NAN, NAN), (1e30, INF), (-1e30, -1), (-50, -1)],
    "tanh": [(INF, 1), (-INF, -1), (NAN, NAN), (1e30, 1), (-1e30, -1), (25, 1), (-25, -1)],
    "log1p": [(INF, INF), (-1, -INF), (-1.5, NAN), (-1e30, NAN), (-INF, NAN), (NAN, NAN)],
    "cospi": [
        (0.0, 1),
        (-0.0, 1),
        (0.5, 0.0),
        (-1.5, 0.0),
        (1, -1),
        (-3, -1),
        (4, 1),
        (-1e30, 1),
        (INF, NAN),
        (NAN, NAN),
    ],
    "sinpi": [(0.0, 0.0), (-0.0, -0.0), (0.5, 1), (-0.5, -1), (1.5, -1), (1e30, 0.0), (-INF, NAN), (NAN, NAN)],
    "log": [(0.0, -INF), (-0.0, -INF), (1, 0), (INF, INF), (-1, NAN), (-1e-30, NAN), (-INF, NAN), (NAN, NAN)],
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_limits_of_the_range(name, dtype, functions):
    """Exact results with their signs, for a single element and within a vector."""
    for x, wanted in EDGES[name]:
        for n in (1, 19):
            y = functions(name, np.full(n, x, dtype))
            np.testing.assert_array_equal(y, np.full(n, wanted, dtype), err_msg=f"{name}({x})")
            assert np.isnan(wanted) or (np.signbit(y) == np.signbit(wanted)).all(), f"{name}({x})"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_largest_and_smallest_numbers(name, dtype, functions):
    limits = np.finfo(dtype)
    x = np.array(
        [limits.max, limits.max / 2, limits.max / 3, limits.tiny, limits.eps, limits.smallest_subnormal], dtype
    )
    x = x if name == "log" else np.concatenate([x, -x])
    errors = _errors(functions(name, x), _reference(name, x))
    assert errors.max() <= vector_math.ULP[name]


@pytest.mark.parametrize("name", ODD)
def test_tiny_numbers_and_zero_are_unchanged(name, dtype, functions):
    limits = np.finfo(dtype)
    x = np.array([0.0, limits.smallest_subnormal, 5 * limits.smallest_subnormal, limits.tiny / 4, limits.tiny], dtype)
    x = np.concatenate([x, -x])
    y = functions(name, x)
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(np.signbit(y), np.signbit(x))


def test_exp_near_overflow_and_underflow(dtype, functions):
    """The extreme arguments with a result other than ∞ and 0, and their neighbors."""
    limits = np.finfo(dtype)
    over = np.log(limits.max)
    under = np.log(WIDER[dtype](limits.smallest_subnormal) / 2).astype(dtype)
    steps = [np.nextafter(x, x.dtype.type(to)) for x in (over, under) for to in (-INF, INF)]
    x = np.array([over, under, *steps], dtype)
    wanted = _reference("exp", x)
    assert _errors(functions("exp", x), wanted).max() <= vector_math.ULP["exp"]
    assert {0, INF} <= set(functions("exp", x).tolist())


# --- vectors and remainders -----------------------------------------------------------------------------------------


def _some(name, dtype):
    """Ordinary arguments and edge values, mixed."""
    rng = np.random.default_rng(7)
    edges = [0.0, -0.0, INF, -INF, NAN, 1e-30, -1e-30, 1e-42, -1, 1, 100, -100, 800, -800]
    x = rng.permutation(np.concatenate([rng.normal(size=26) * 3, edges])).astype(dtype)
    return np.abs(x) if name == "log" else x


def _assert_same_bits(got, wanted):
    """NaNs are equal regardless of their bits."""
    np.testing.assert_array_equal(np.isnan(got), np.isnan(wanted))
    a, b = (np.where(np.isnan(y), y.dtype.type(0), y).view(f"u{y.itemsize}") for y in (got, wanted))
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_results_do_not_depend_on_the_length(name, dtype, functions):
    x = _some(name, dtype)
    alone = np.concatenate([functions(name, x[k : k + 1]) for k in range(len(x))])
    for n in range(1, len(x) + 1):
        for first in {0, len(x) - n}:
            _assert_same_bits(functions(name, x[first : first + n].copy()), alone[first : first + n])


INSTRUCTION_SETS = [(f"-march={level}", *prebuilt.VECTOR_WIDTH.get(level, ())) for level in prebuilt.supported_levels()]


@pytest.mark.parametrize("flags", [("-O0",), *INSTRUCTION_SETS], ids=" ".join)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_results_do_not_depend_on_vectorization(name, flags, dtype, functions):
    """No result depends on how the compiler arranges the sums, on any instruction set of a bundle."""
    if flags != ("-O0",) and tuple(compiler.find()) == compiler.ZIG:
        pytest.skip("ziglang names processors differently")
    plain = Functions(library_cache.compile_source(Source("test", _source(), flags), compiler.find()))
    x = np.concatenate([_arguments(name, dtype)[::7], _some(name, dtype)])
    _assert_same_bits(functions(name, x), plain(name, x))


def test_no_function_of_the_c_library_is_called(dtype, functions):
    """Otherwise its name would be among the symbols."""
    library = functions.path.read_bytes()
    for name in FUNCTIONS:
        assert f"\0{name}{'f' if dtype == 'float32' else ''}\0".encode() not in library


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64", "aarch64"), reason="needs vector registers")
def test_loops_are_vectorized(dtype, tmp_path):
    """GCC reports the line of every vectorized loop."""
    command = compiler.find()
    version = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False).stdout
    if "Free Software Foundation" not in version:
        pytest.skip("only GCC has this report")
    unit = tmp_path / "unit.cpp"
    unit.write_text(_source())
    options = [
        *compiler.FLAGS,
        *compiler.NATIVE,
        "-shared",
        "-fopt-info-vec-optimized",
        "-o",
        str(tmp_path / "unit.so"),
    ]
    report = subprocess.run([*command, *options, str(unit)], capture_output=True, text=True, check=True).stderr
    lines = _source().split("\n")
    for name in FUNCTIONS:
        # the function, the pragma, the loop
        loop = 3 + next(k for k, line in enumerate(lines) if f"void {name}_{dtype}(" in line)
        assert f"unit.cpp:{loop}:" in report, lines[loop - 1]
