"""The sizes at which the code takes a different path. Random tests draw sizes on both sides of each of them.

Those of the compiled core are read from it by name, so a test notices one that was added and is not listed here.
"""

import numpy as np

from fastrnn import _engine, losses, search
from fastrnn._core import bptt, short_calls

ENGINE = _engine.thresholds()
PYTHON = {
    "CHUNK_ROWS": bptt._CHUNK_ROWS,  # rows whose gradients of the gates exist at a time
    "GROUP_ROWS": search._GROUP_ROWS,  # hypotheses that are computed together
    "SHORT_ROWS": short_calls.MOST_ROWS,  # steps * sequences of a call that a stream computes
    "SHORT_SEQUENCES": short_calls.MOST_SEQUENCES,  # sequences of one layer, up to which more steps are short too
    "SHORT_WORK": short_calls.MOST_WORK,  # multiply-adds of those
    "SHORT_STATE_BYTES": short_calls.MOST_STATE_BYTES,  # of h, of all sequences
    "LOGITS_BYTES": losses.linear._LOGITS_BYTES,  # logits that softmax_linear holds at a time
}

# Names in the engine's list, and the quantity of a case that they apply to.
STEPS = ["CHUNK_STEPS", "WAVE_STEPS"]  # T
ROWS = ["SPLIT_ROWS", "MAX_PARTS"]  # B
WORK = ["SPLIT_FLOPS", "STREAM_SERIAL_FLOPS", "SLICE_FLOPS"]  # floating-point operations of a call
STEP_WORK = ["WAVE_FLOPS"]  # of a step
BYTES = ["OWN_CACHE"]  # recurrent weights of a layer
OTHER = {
    "AWAKE_DISCOUNT": "divides SPLIT_FLOPS",
    "AWAKE_US": "time: which path a stream takes depends on it, and no result",
    "STEP_GFLOPS": "speed, as above",
    "CHUNK_BYTES": "rows of a chunk, with CHUNK_STEPS: see around()",
    "MAX_HYPOTHESES": "refused above",
    "GRID": "rows of a tile of BLAS",
    "TOGETHER_ROWS": "rows of a chunk of the backward pass, on both sides in test_threads.py",
    "GEMM_TERMS": "rows of all steps",
}


def around(rng, value, low=1):
    """Return an integer on one side of a threshold or the other: just at it, or up to a half away."""
    near = value + rng.integers(-2, 3)
    return int(max(low, near if rng.random() < 0.5 else value * rng.uniform(0.5, 1.6)))


def lanes(rng, dtype, least=1):
    """Return a number of units around whole vectors or panels of four vectors."""
    width = _engine.vector_lanes(np.dtype(dtype).itemsize == 8)
    return max(least, int(width * rng.choice([1, 1, 2, 3, 4, 5, 8, 9]) + rng.integers(-1, 2)))
