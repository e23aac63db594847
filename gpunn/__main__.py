"""Run the command `gpunn` as `python -m gpunn`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
