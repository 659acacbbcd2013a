"""Data-parallel training on several processes or machines, through mpi4py (``pip install 'fastrnn[mpi]'`` and an MPI).

    mpiexec -n 4 fastrnn train …
    mpiexec -n 4 python -m mpi4py script.py        where the script says ``model.fit(…, distributed=True)``

Each process computes its part of the rows of each batch; one Allreduce of the flat gradient, weighted by what each part counts, gives
all of them the gradient of the whole batch. Rank 0 evaluates, shows progress and writes; a checkpoint of N processes can be resumed by
any other number.
"""

from __future__ import annotations

import json
import os

import numpy as np

from fastrnn._core.threads import get_num_threads, set_num_threads
from fastrnn.batches import row_share

# What mpiexec tells its processes: Open MPI, MPICH and Intel MPI, SLURM's srun --mpi
_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_SIZE")


def started_by_mpiexec() -> int:
    """The number of processes if mpiexec started this one beside others, else 0."""
    sizes = [int(os.environ[name]) for name in _SIZES if os.environ.get(name, "").isdecimal()]
    return max(sizes, default=0) if max(sizes, default=0) > 1 else 0


class Ranks:
    """The processes of a run, and what they tell each other.

    Parameters
    ----------
    communicator : of mpi4py, or None: ``MPI.COMM_WORLD``
    """

    def __init__(self, communicator=None):
        if communicator is None:
            try:
                from mpi4py import MPI
            except (ImportError, RuntimeError) as error:  # RuntimeError: mpi4py finds no MPI library
                count = started_by_mpiexec()
                began = f"mpiexec has started {count} processes, but mpi4py" if count else "distributed training"
                needs = "cannot be used" if count else "needs mpi4py and an MPI library"
                reason = " ".join(str(error).split())
                raise ImportError(f"{began} {needs} ({reason}): pip install 'fastrnn[mpi]'") from None
            communicator = MPI.COMM_WORLD
        self._comm = communicator
        self.rank, self.size = communicator.Get_rank(), communicator.Get_size()

    def abort(self) -> None:
        """End all processes, with status 1."""
        self._comm.Abort(1)

    def share_threads(self) -> None:
        """Give this process its part of the cores of its machine."""
        from mpi4py import MPI

        local = self._comm.Split_type(MPI.COMM_TYPE_SHARED)
        mine = np.zeros(os.cpu_count() or 1, np.int32)
        mine[[cpu for cpu in _affinity() if cpu < len(mine)]] = 1
        everyone = np.empty_like(mine)
        local.Allreduce(mine, everyone, MPI.MAX)
        set_num_threads(max(1, min(get_num_threads(), int(everyone.sum()) // local.Get_size())))
        local.Free()

    def sum(self, gradient, figures):
        """Add up the gradients of all processes, in place, and some figures, which are returned: one Allreduce."""
        buffer = np.concatenate([gradient, np.asarray(figures, gradient.dtype)])
        total = np.empty_like(buffer)
        self._comm.Allreduce(buffer, total)
        gradient[:] = total[: len(gradient)]
        return total[len(gradient) :].tolist()

    def agree(self, value):
        """Rank 0's value, for all: anything that JSON can hold."""
        data = np.frombuffer(json.dumps(value).encode(), np.uint8) if self.rank == 0 else None
        size = np.array([0 if data is None else len(data)])
        self._comm.Bcast(size)
        data = np.array(data) if data is not None else np.empty(size[0], np.uint8)
        self._comm.Bcast(data)
        return json.loads(data.tobytes())

    def broadcast(self, arrays: dict) -> dict:
        """Rank 0's arrays, for all."""
        shapes = self.agree({name: [array.shape, str(array.dtype)] for name, array in arrays.items()})
        found = {}
        for name, (shape, dtype) in shapes.items():
            found[name] = np.ascontiguousarray(arrays[name]) if self.rank == 0 else np.empty(shape, dtype)
            self._comm.Bcast(found[name])
        return found

    def gather_rows(self, arrays: list) -> list:
        """Arrays (n, rows of this process, …) as arrays (n, rows of all, …), on rank 0; elsewhere an empty list."""
        counts = np.empty(self.size, np.int64)
        found = []
        for array in arrays:
            rows = np.ascontiguousarray(np.moveaxis(array, 1, 0))
            self._comm.Allgather(np.array([rows.size]), counts)
            total = (
                np.empty((counts.sum() // max(1, rows[0].size), *rows.shape[1:]), rows.dtype)
                if self.rank == 0
                else None
            )
            self._comm.Gatherv(rows, [total, counts] if self.rank == 0 else None)
            if self.rank == 0:
                found.append(np.ascontiguousarray(np.moveaxis(total, 0, 1)))
        return found

    def share(self, batches):
        """The part of the batches, as of fastrnn.batches, that belongs to this process."""
        return batches.share(self.rank, self.size)

    def rows_of(self, array):
        """The part of an array (n, rows of all, …) that belongs to this process."""
        return np.ascontiguousarray(array[:, row_share(array.shape[1], self.rank, self.size)])


class OneProcess:
    """A run of this process alone, with the interface of `Ranks`: what it gives to the others it keeps."""

    rank, size = 0, 1

    def share_threads(self) -> None:
        """Keep all threads."""

    def sum(self, gradient, figures):
        """Return the figures; the gradient is the whole one already."""
        return figures

    def agree(self, value):
        """Return the value."""
        return value

    def broadcast(self, arrays: dict) -> dict:
        """Return the arrays."""
        return arrays

    def gather_rows(self, arrays: list) -> list:
        """Return the arrays."""
        return arrays

    def share(self, batches):
        """Return the batches."""
        return batches

    def rows_of(self, array):
        """Return the array."""
        return array


def _affinity():
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
