"""`python -m gpunn.kernels build` compiles all kernels for this CPU; `status` reports which implementation runs."""

import argparse
import sys

from . import all_kernels
from ._compiler import cpu_cache


def main() -> int:
    """Run the command. The exit status is 1 if the kernels cannot be compiled."""
    parser = argparse.ArgumentParser(prog="python -m gpunn.kernels", description=__doc__)
    parser.add_argument("command", choices=["build", "status"])
    command = parser.parse_args().command
    if command == "build":
        try:
            units = cpu_cache.build()
        except (cpu_cache.CompileError, OSError) as error:
            print(f"the kernels were not compiled: {error}", file=sys.stderr)
            return 1
        print(f"compiled {len(all_kernels())} kernels, {len(units)} sources, into {cpu_cache.cache_folder()}")
        return 0
    found = cpu_cache.status()
    print(f"implementation on this CPU: {found.implementation} ({found.reason})\ncache: {found.cache}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
