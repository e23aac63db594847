"""The CPU: BLAS, products of small matrices and a compiled executor with its own thread pool."""
