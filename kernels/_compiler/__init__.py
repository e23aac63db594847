"""Registration of kernels, and the three ways to run one: NumPy, compiled C++ and CUDA."""
