"""Compile an exported C file, run it and compare its outputs with those of the network."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from fastrnn.convert.c_models import Exported
from fastrnn.layers.feedforward import Embedding, Linear

_STEPS = 8
_SECONDS = 120  # for the compiler: constants take it about a second per million
_MOST_PARAMETERS = 5_000_000

_MAIN = """\
#include <stdio.h>
#include "net.c"

int main(void)
{{
    static {prefix}_state state;
    static {taken} x[{inputs}];
    static {given} y[{prefix_upper}_OUTPUTS];
    {prefix}_reset(&state);
    while (fread(x, sizeof x, 1, stdin) == 1) {{
        {prefix}_step(&state, {x}, y);
        if (fwrite(y, sizeof y, 1, stdout) != 1)
            return 1;
    }}
    return 0;
}}
"""


def compare(exported: Exported, path: Path, prefix: str) -> str:
    """Compare outputs on random input; returns what was compared.

    Raises
    ------
    ValueError
        The outputs differ.
    """
    given = os.environ.get("CC") or "cc"
    try:
        command = shlex.split(given)
    except ValueError as error:
        return f"$CC is {given!r} ({error}), so its outputs were NOT compared"
    compiler = shutil.which(command[0]) if command else None
    if compiler is None:
        return f"no C compiler was found ({' '.join(command)}), so its outputs were NOT compared"
    net = exported.network
    if net.num_parameters > _MOST_PARAMETERS:
        return f"it was NOT compiled and compared, as it has more than {_MOST_PARAMETERS:,} parameters"
    first, rng = next(iter(net.layers.values())), np.random.default_rng(0)
    ids = isinstance(first, Embedding)
    if ids:
        x = rng.integers(0, first.num_embeddings, _STEPS).astype(np.int32)
    else:
        size = first.in_features if isinstance(first, Linear) else first.input_size
        x = rng.standard_normal((_STEPS, size))
        x = (x if exported.scaler is None else exported.scaler.undo(x)).astype(net.dtype)
    real = "float" if net.dtype == np.float32 else "double"
    text = _MAIN.format(
        prefix=prefix, prefix_upper=prefix.upper(), given=real, taken="int32_t" if ids else real,
        inputs=1 if ids else max(x.shape[1], 1), x="x[0]" if ids else "x",
    )  # fmt: skip
    want = exported.outputs(x)
    inputs = x if ids or x.shape[1] else np.zeros((_STEPS, 1), net.dtype)
    try:
        got = np.frombuffer(_outputs([compiler, *command[1:]], path, text, inputs.tobytes()), net.dtype)
    except (OSError, subprocess.SubprocessError) as error:
        lines = (getattr(error, "stderr", None) or str(error)).strip().splitlines() or ["no message"]
        said = next((line for line in lines if "error:" in line), lines[0])
        return f"it could NOT be compiled by {' '.join(command)}, so its outputs were NOT compared: {said}"
    if got.size != want.size:
        raise ValueError(f"compiled, it gives {got.size} numbers, but fastrnn {want.size}: please report this")
    bound = (1e-4 if net.dtype == np.float32 else 1e-10) * max(1.0, float(np.abs(want).max(initial=0)))
    worst = float(np.abs(got.reshape(want.shape) - want).max(initial=0))
    if not worst <= bound:
        raise ValueError(f"compiled, its outputs differ from fastrnn's by up to {worst:.3g}: please report this model")
    return f"compiled by {command[0]}, its outputs on {_STEPS} random steps agree with fastrnn's, to {worst:.1e}"


def _outputs(compiler, path, text, given):
    """Compile the file with the program `text`; returns what it writes."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copyfile(path, Path(folder, "net.c"))
        Path(folder, "main.c").write_text(text)
        command = [*compiler, "-std=c99", "-O1", "-ffp-contract=off", "main.c", "-o", "main", "-lm"]
        options = {"cwd": folder, "check": True, "capture_output": True, "timeout": _SECONDS}
        subprocess.run(command, text=True, errors="replace", **options)
        if not Path(folder, "main").exists():
            raise OSError("it wrote no program")
        return subprocess.run([str(Path(folder, "main"))], input=given, **options).stdout
