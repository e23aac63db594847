"""`python -m gpunn.kernels build` compiles every kernel's text for this CPU; `status` says which body runs."""

import argparse
import sys

from . import all_kernels
from ._compiler import cpu_cache


def main() -> int:
    """Run the command; the exit status is 1 where the texts cannot be compiled."""
    parser = argparse.ArgumentParser(prog="python -m gpunn.kernels", description=__doc__)
    parser.add_argument("command", choices=["build", "status"])
    command = parser.parse_args().command
    if command == "build":
        try:
            units = cpu_cache.build()
        except (cpu_cache.CompileError, OSError) as error:
            print(f"the kernels were not compiled: {error}", file=sys.stderr)
            return 1
        print(f"compiled {len(all_kernels())} kernels, {len(units)} texts, into {cpu_cache.cache_folder()}")
        return 0
    found = cpu_cache.status()
    print(f"body on this CPU: {found.implementation} ({found.reason})\ncache: {found.cache}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
