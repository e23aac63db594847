"""A process group of threads, to test distributed training without MPI. Each thread has a separate network."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

import gpunn
from gpunn.parallel import strategy


class ThreadRank:
    """Replaces `gpunn.parallel.mpi.MpiWorld` for one thread."""

    timeout = 60.0

    def __init__(self, group, rank):
        self.group, self.rank, self.size, self.local_rank = group, rank, group.size, rank
        self.call_depth, self.has_synchronized, self.sums, self.known_error = 0, False, 0, None

    def _exchange(self, value):
        self.group.table[self.rank] = value
        self.group.barrier.wait(20)
        found = list(self.group.table)
        self.group.barrier.wait(20)
        return found

    def allgather(self, where, value):
        entries = self._exchange(("here", where, value))
        for rank, (status, place, content) in enumerate(entries):
            if status == "failed":
                self.known_error = RuntimeError(f"process {rank} failed: {content}")
                raise self.known_error
            assert place == where
        return [content for _, _, content in entries]

    def announce_failure(self, error, seconds):
        if error is not self.known_error:
            self._exchange(("failed", "", str(error)))

    def bind_async_all_reduce(self, arrays, *, blocking):
        sent = []

        def start():
            self.sums += 1
            sent.append([np.array(a) for a in arrays])
            if not blocking:
                # so that any use of arrays in flight is detected
                for a in arrays:
                    a.fill(np.nan)

        def wait():
            all_ranks = self._exchange(sent.pop())
            for k, a in enumerate(arrays):
                # in the order of ranks, so that results are reproducible
                a[...] = sum((each[k] for each in all_ranks[1:]), start=all_ranks[0][k])

        return ([start], [wait]) if arrays else ([], [])


class ThreadedGroup:
    """Threads, each of which calls `work(strategy)` as one rank."""

    def __init__(self, size):
        self.size = size

    def run(self, work, **options):
        self.table, self.barrier = [None] * self.size, threading.Barrier(self.size)
        self.members = [ThreadRank(self, rank) for rank in range(self.size)]
        with ThreadPoolExecutor(self.size) as pool:
            futures = [pool.submit(self._one, work, rank, options) for rank in range(self.size)]
            errors = [future.exception() for future in futures]
        for error in sorted(filter(None, errors), key=lambda e: isinstance(e, threading.BrokenBarrierError)):
            raise error
        return [future.result() for future in futures]

    def _one(self, work, rank, options):
        parallel = gpunn.DataParallel(**options)
        member = self.members[rank]
        parallel.start = lambda: strategy.DataParallelGroup(
            member, synchronized_batch_norm=parallel.synchronized_batch_norm, bucket_bytes=parallel.bucket_bytes
        )
        return work(parallel)
