"""Started by mpiexec in test_distributed.py: trains what its argument names; rank 0 writes parameters and history."""

import json
import sys

import numpy as np
from mpi4py import MPI

import fastrnn
from fastrnn.models import LanguageModel, SequenceClassifier

TEXT = "".join(f"{n} squared is {n * n}, and cubed {n**3}.\n" for n in range(120))


def sick(model, updates, how):
    """In these updates, counted from 1, the last process has a gradient of NaN, or a check of its layers fails."""
    real, calls = model.loss_and_gradient, []

    def loss_and_gradient(batch, state, *, into, rng):
        calls.append(rng)
        found = real(batch, state, into=into, rng=rng)
        if len(calls) in updates and MPI.COMM_WORLD.rank == MPI.COMM_WORLD.size - 1:
            if how == "fails":
                raise FloatingPointError("a planted failure")
            into[:] = np.nan
        return found

    model.loss_and_gradient = loss_and_gradient


def train(what, distributed, stop_at=None, updates=(), how="nan", **options):
    options["callbacks"] = [lambda entry: entry["update"] == stop_at]
    if what == "streams":
        model = LanguageModel("lstm", 8, 2, dtype="float64", seed=5)
        if updates:
            sick(model, updates, how)
        return model.fit(
            TEXT,
            **{"epochs": 5, "batch_size": 6, "seq_len": 20, "verbose": False, "distributed": distributed} | options,
        )
    rng = np.random.default_rng(0)
    X = [rng.standard_normal((rng.integers(2, 9), 3)) for _ in range(55)]
    y = [("up", "down")[int(x.sum() > 0)] for x in X]
    model = SequenceClassifier("gru", 6, bidirectional=True, dtype="float64", seed=5)
    # 11 updates of 5 sequences: the last of three processes has one sequence, or none
    return model.fit(
        X,
        y,
        **{
            "epochs": 5,
            "batch_size": 5,
            "accumulate": 1,
            "validation": (X, y),
            "verbose": False,
            "distributed": distributed,
        }
        | options,
    )


if __name__ == "__main__":
    what, out, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    model = train(what, True, **options)
    everyone = MPI.COMM_WORLD.gather(model.storage.flat.tobytes())
    if MPI.COMM_WORLD.rank == 0:
        assert len(set(everyone)) == 1
        np.savez(out, flat=model.storage.flat, history=json.dumps(model.history), threads=fastrnn.get_num_threads())
