"""Many processes, one training: `mpiexec -n 4 python train.py` with `compile(..., strategy=DataParallel())`.

Processes talk by MPI (mpi4py), and GPUs add their gradients by NCCL (through CuPy). Importing this imports neither.
"""

from .disk_rows import Rows
from .mpi import mpi_rank_and_size
from .strategy import DataParallel

__all__ = ["DataParallel", "Rows", "mpi_rank_and_size"]
