"""The functions and classes of the compiled extensions. Their arguments must have been checked."""

from fastrnn._engine.bptt import Bptt, backward_layer, backward_sides
from fastrnn._engine.core import (
    ACTIVATIONS,
    CELLS,
    PANEL,
    aligned_empty,
    available_isas,
    blas_core,
    compiler,
    current_threads,
    fma_loop,
    force_leave,
    gemm,
    isa,
    open_blas,
    product,
    read_loop,
    set_default_threads,
    set_isa,
    set_local_threads,
    threads_paused,
    thresholds,
    vector_lanes,
)  # fmt: skip
from fastrnn._engine.decoder import (
    Decoder,
    Writer,
    attend,
    attend_backward,
    draw,
    greatest,
    log_sum_exp,
    max_hypotheses,
)
from fastrnn._engine.ops import (
    check_weights,
    divide_rows,
    dropout,
    mean_loss,
    mean_weights,
    scale,
    softmax,
    softmax_nll,
    squared_error,
    tanh_backward,
)
from fastrnn._engine.optim import adagrad, adam, clip_value, rmsprop, sgd, sum_of_squares
from fastrnn._engine.packing import pack, pack_columns
from fastrnn._engine.plan import (
    NotRecordable,
    Program,
    call,
    call_with_key,
    copy_arrays,
    copy_of,
    flatten,
    hash_key,
    parts_of,
    record,
    recording,
    result_of,
    same_bytes,
    viewed,
    with_parts,
)
from fastrnn._engine.rows import (
    add_rows,
    check_within,
    column_sum,
    copy_ids,
    copy_rows,
    distinct,
    empty,
    gather,
    ragged_places,
    row_ids,
    scatter_add,
    spread,
    step_rows,
    zeros,
)
from fastrnn._engine.stream import Stream
from fastrnn._engine.sweep import (
    Forward,
    LayerWeights,
    Steps,
    chunk_steps,
    force_split,
    forward_layers,
    forward_sides,
    forward_wave,
    waves_pay,
)
from fastrnn._engine.targets import chunk_counts, forced, padded, sequences, valid_targets
from fastrnn._engine.words import bag, bag_backward, memories

__all__ = [
    "ACTIVATIONS", "Bptt", "CELLS", "Decoder", "Forward", "LayerWeights", "NotRecordable", "PANEL", "Program",
    "Steps", "Stream", "Writer", "adagrad", "adam", "add_rows", "aligned_empty", "attend", "attend_backward",
    "available_isas", "backward_layer", "backward_sides", "bag", "bag_backward", "blas_core", "call", "call_with_key",
    "check_weights", "check_within", "chunk_counts", "chunk_steps", "clip_value",
    "column_sum", "compiler", "copy_arrays", "copy_ids", "copy_of", "copy_rows", "current_threads", "distinct",
    "divide_rows", "draw", "dropout", "empty", "flatten", "fma_loop", "force_leave", "force_split",
    "forced", "forward_layers", "forward_sides", "forward_wave", "gather", "gemm", "greatest", "hash_key", "isa",
    "log_sum_exp", "max_hypotheses", "mean_loss", "mean_weights", "memories", "open_blas", "pack", "pack_columns",
    "padded", "parts_of", "product", "ragged_places", "read_loop", "record", "recording", "result_of", "rmsprop",
    "row_ids", "same_bytes", "scale", "scatter_add", "sequences", "set_default_threads", "set_isa",
    "set_local_threads", "sgd", "softmax", "softmax_nll", "spread", "squared_error", "step_rows",
    "sum_of_squares", "tanh_backward", "threads_paused", "thresholds", "valid_targets", "vector_lanes", "viewed",
    "waves_pay", "with_parts", "zeros",
]  # fmt: skip
