"""How gpunn compares: `python -m benchmarks --help`, run from the checkout's root. Not installed with the package."""
