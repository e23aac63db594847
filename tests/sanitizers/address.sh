#!/usr/bin/env bash
# Runs the tests of the compiled CPU code under AddressSanitizer and UndefinedBehaviorSanitizer (Linux, GCC):
#
#     tests/sanitizers/address.sh [pytest arguments]
#
# The first report ends the run with status 1 and a stack trace. CXX carries the flags to every library that gpunn
# compiles: executor, small products and kernels. NumPy's memory is checked too, since the runtime replaces malloc.
# PYTHON names the interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
read -ra compiler <<< "${CXX:-c++}"
runtime() { "${compiler[@]}" -print-file-name="$1"; }

if (($# == 0)); then
    set -- tests/unit/backend/cpu tests/unit/kernels/test_values.py tests/unit/kernels/test_parity.py \
        -k "not simulated and not numpy"
fi
# the runtimes must be loaded first; libstdc++, because AddressSanitizer looks up its exceptions when it starts
preload="$(runtime libasan.so) $(runtime libubsan.so) $(runtime libstdc++.so)"
export CXX="${compiler[*]} -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g1"
# Python does not free all of its memory; -s, since a report ends the process before pytest prints what it captured
export ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1
LD_PRELOAD=$preload exec "${PYTHON:-python3}" -m pytest -q -x -s "$@"
