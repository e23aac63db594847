"""NVIDIA GPUs through CuPy: cuBLASLt, CUDA graphs, transfers and diagnosis. Importing this imports no CuPy."""
