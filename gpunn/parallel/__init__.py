"""Distributed training: `mpiexec -n 4 python train.py` with `compile(..., strategy=DataParallel())`.

Processes communicate by MPI (mpi4py), and GPUs all-reduce gradients by NCCL (CuPy). Importing this package imports
neither.
"""

from .disk_rows import Rows
from .mpi import mpi_rank_and_size
from .strategy import DataParallel

__all__ = ["DataParallel", "Rows", "mpi_rank_and_size"]
