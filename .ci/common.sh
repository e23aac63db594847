# Shared by .ci/run and .ci/full: named stages with durations, and virtual environments. Sourced, not executed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python3}
work=$(mktemp -d)
stages=() durations=()
stage="preparation"
begun=$SECONDS
unset PYTHONPATH GPUNN_DEVICE GPUNN_COMPILE GPUNN_EAGER
unset GPUNN_REQUIRE_GPU GPUNN_REQUIRE_ORACLES GPUNN_REQUIRE_KERNELCHECK
export GPUNN_CACHE=$work/cache PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_QUIET=1

end_stage() {
    stages+=("$stage") durations+=("$((SECONDS - begun))")
    echo "--- $((SECONDS - begun)) s: $stage"
}

announce() { # end the stage before, if any, and begin the stage $1
    if [[ $stage != preparation ]]; then end_stage; fi
    stage=$1 begun=$SECONDS
    echo "=== $stage"
}

finish() { # print every stage with its duration, then the result
    local status=$? k
    if ((status == 0)) && [[ $stage != preparation ]]; then end_stage; fi
    rm -rf "$work"
    echo "=== durations"
    for k in "${!stages[@]}"; do printf '%6d s  %s\n' "${durations[k]}" "${stages[k]}"; done
    if ((status == 0)); then
        echo "$name PASSED: ${#stages[@]} stages in $((SECONDS / 60)) min $((SECONDS % 60)) s"
    else
        echo "$name FAILED in stage: $stage (exit $status, after $((SECONDS / 60)) min $((SECONDS % 60)) s)"
    fi
}
trap finish EXIT

environment() { # create the virtual environment $1; its programs are in $work/$1/bin
    "$python" -m venv "$work/$1"
    "$work/$1/bin/python" -m pip install --upgrade pip
}

"$python" -c 'import sys; sys.exit(sys.version_info[:2] not in [(3, 11), (3, 12)])' ||
    { echo "$python must be Python 3.11 or 3.12, the versions that NumPy 2.0 and gpunn both support: set PYTHON"; exit 1; }
