"""Benchmarks of gpunn: `python -m benchmarks --help`, from the root of the checkout. Not installed with the package."""
