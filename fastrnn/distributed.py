"""Data-parallel training in several processes, also on several machines, through mpi4py.

It needs mpi4py (``pip install 'fastrnn[mpi]'``) and an MPI library.

    mpiexec -n 4 fastrnn train …
    mpiexec -n 4 python -m mpi4py script.py        where the script calls ``model.fit(…, distributed=True)``

Each process computes its share of the rows of each batch. One Allreduce of the flat gradient, in which each share is
weighted, gives all processes the gradient of the whole batch. Rank 0 evaluates, shows progress and writes files. A
checkpoint of N processes can be resumed by any other number of processes.
"""

from __future__ import annotations

import json
import os

import numpy as np

from fastrnn._core.threads import get_num_threads, set_num_threads
from fastrnn.batches import row_share

# Set by mpiexec: of Open MPI; of MPICH and Intel MPI; of SLURM (srun --mpi)
_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_SIZE")


def started_by_mpiexec() -> int:
    """Find out whether mpiexec started this process together with others.

    Returns
    -------
    int
        The number of processes, or 0 if this one is alone.
    """
    sizes = [int(os.environ[name]) for name in _SIZES if os.environ.get(name, "").isdecimal()]
    return max(sizes, default=0) if max(sizes, default=0) > 1 else 0


class Ranks:
    """The processes of a run, and their communication.

    Parameters
    ----------
    communicator : mpi4py communicator, optional
        The processes. By default ``MPI.COMM_WORLD``.

    Attributes
    ----------
    rank : int
        Index of this process.
    size : int
        Number of processes.

    Raises
    ------
    ImportError
        If mpi4py or an MPI library is not installed.
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
        """Limit the threads of this process to its share of the cores of its machine."""
        from mpi4py import MPI

        local = self._comm.Split_type(MPI.COMM_TYPE_SHARED)
        mine = np.zeros(os.cpu_count() or 1, np.int32)
        mine[[cpu for cpu in _affinity() if cpu < len(mine)]] = 1
        everyone = np.empty_like(mine)
        local.Allreduce(mine, everyone, MPI.MAX)
        set_num_threads(max(1, min(get_num_threads(), int(everyone.sum()) // local.Get_size())))
        local.Free()

    def sum(self, gradient: np.ndarray, figures: list[float]) -> list[float]:
        """Add up the gradients and some figures of all processes, with one Allreduce.

        Parameters
        ----------
        gradient : ndarray, shape (N,)
            The gradient of this process. It is replaced by the sum.
        figures : list of float
            The figures of this process.

        Returns
        -------
        list of float
            The sums of the figures.
        """
        buffer = np.concatenate([gradient, np.asarray(figures, gradient.dtype)])
        total = np.empty_like(buffer)
        self._comm.Allreduce(buffer, total)
        gradient[:] = total[: len(gradient)]
        return total[len(gradient) :].tolist()

    def agree(self, value):
        """Send a value of rank 0 to all processes.

        Parameters
        ----------
        value : object
            On rank 0, anything that JSON can represent. Elsewhere it is ignored.

        Returns
        -------
        object
            The value of rank 0.
        """
        data = np.frombuffer(json.dumps(value).encode(), np.uint8) if self.rank == 0 else None
        size = np.array([0 if data is None else len(data)])
        self._comm.Bcast(size)
        data = np.array(data) if data is not None else np.empty(size[0], np.uint8)
        self._comm.Bcast(data)
        return json.loads(data.tobytes())

    def broadcast(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Send the arrays of rank 0 to all processes.

        Parameters
        ----------
        arrays : dict
            On rank 0, ``{name: array}``. Elsewhere it is ignored.

        Returns
        -------
        dict
            The arrays of rank 0.
        """
        shapes = self.agree({name: [array.shape, str(array.dtype)] for name, array in arrays.items()})
        found = {}
        for name, (shape, dtype) in shapes.items():
            found[name] = np.ascontiguousarray(arrays[name]) if self.rank == 0 else np.empty(shape, dtype)
            self._comm.Bcast(found[name])
        return found

    def gather_rows(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Concatenate the rows of all processes on rank 0.

        Parameters
        ----------
        arrays : list of ndarray, shape (n, rows of this process, ...)
            The arrays of this process.

        Returns
        -------
        list of ndarray, shape (n, rows of all processes, ...)
            The whole arrays on rank 0, an empty list elsewhere.
        """
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
        """Select the share of this process.

        Parameters
        ----------
        batches : Streams, Sequences or Generated
            The batches of all processes.

        Returns
        -------
        Streams, Sequences or Generated
            The batches with the rows of this process.
        """
        return batches.share(self.rank, self.size)

    def rows_of(self, array: np.ndarray) -> np.ndarray:
        """Select the rows of this process.

        Parameters
        ----------
        array : ndarray, shape (n, rows of all processes, ...)
            A whole array.

        Returns
        -------
        ndarray, shape (n, rows of this process, ...)
            A copy of the rows of this process.
        """
        return np.ascontiguousarray(array[:, row_share(array.shape[1], self.rank, self.size)])


class OneProcess:
    """A run of this process alone, with the interface of `Ranks`.

    Attributes
    ----------
    rank : int
        Always 0.
    size : int
        Always 1.
    """

    rank, size = 0, 1

    def share_threads(self) -> None:
        """Keep the number of threads."""

    def sum(self, gradient: np.ndarray, figures: list[float]) -> list[float]:
        """Return the figures.

        Parameters
        ----------
        gradient : ndarray, shape (N,)
            The gradient, which is complete already.
        figures : list of float
            The figures.

        Returns
        -------
        list of float
            The figures.
        """
        return figures

    def agree(self, value):
        """Return the value.

        Parameters
        ----------
        value : object
            Any value.

        Returns
        -------
        object
            The same value.
        """
        return value

    def broadcast(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the arrays.

        Parameters
        ----------
        arrays : dict
            The arrays.

        Returns
        -------
        dict
            The same arrays.
        """
        return arrays

    def gather_rows(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Return the arrays.

        Parameters
        ----------
        arrays : list of ndarray
            The arrays.

        Returns
        -------
        list of ndarray
            The same arrays.
        """
        return arrays

    def share(self, batches):
        """Return the batches.

        Parameters
        ----------
        batches : Streams, Sequences or Generated
            The batches.

        Returns
        -------
        Streams, Sequences or Generated
            The same batches.
        """
        return batches

    def rows_of(self, array: np.ndarray) -> np.ndarray:
        """Return the array.

        Parameters
        ----------
        array : ndarray
            An array.

        Returns
        -------
        ndarray
            The same array.
        """
        return array


def _affinity():
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
