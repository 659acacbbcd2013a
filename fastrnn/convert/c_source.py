"""Export of a network as one C99 file with its weights."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fastrnn import _engine
from fastrnn._files import disk
from fastrnn.convert import c_functions
from fastrnn.convert.c_layers import LayerLines
from fastrnn.convert.c_models import Exportable, Exported
from fastrnn.layers.feedforward import Embedding, Linear
from fastrnn.layers.network_steps import FUNCTIONS
from fastrnn.layers.recurrent import Recurrent
from fastrnn.layers.stacked import Stacked

_ACTIVATIONS = {kind: name for name, kind in _engine.ACTIVATIONS.items()}
# How many of (alpha, beta) the C function takes
_NUMBERS = {
    "affine": 2, "leaky_relu": 1, "thresholded_relu": 1, "scaled_tanh": 2, "hard_sigmoid": 2, "elu": 1,
}  # fmt: skip
_STEP_DEFAULTS = {"leaky_relu": (0.01,), "hard_sigmoid": (1 / 6, 0.5), "elu": (1.0,)}

_HEADER = """\
/* {title}
 *
 * Written by fastrnn. C99; nothing is allocated, and nothing else is needed{library}.
 *
 *     {prefix}_state state;
 *     {prefix}_reset(&state);
 *     {prefix}_step(&state, {given}, y);      for each step: {takes} in, {gives} y out
 *
 * {alias}A copy of the state saves it. To include the
 * declarations alone, define {PREFIX}_DECLARATIONS first.
 *
 * Compile with -ffp-contract=off: the outputs are then those of fastrnn with FASTRNN_ISA=v2, bit for bit, where the
 * processor computes subnormal numbers as 0 (FTZ and DAZ){inexact}. */
#ifndef {PREFIX}_H
#define {PREFIX}_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {{
#endif

#define {PREFIX}_INPUTS {inputs}
#define {PREFIX}_OUTPUTS {outputs}

typedef struct {{
{members}}} {prefix}_state;

void {prefix}_reset({prefix}_state *state);
{step};

#ifdef __cplusplus
}}
#endif

#endif

#ifndef {PREFIX}_DECLARATIONS

#ifdef __FAST_MATH__
#error "compile without -ffast-math: rounding would be optimised away, and the results would be wrong"
#endif

{includes}
"""


def export_c(model: Exportable, path: str | os.PathLike[str], *, name: str | None = None) -> None:
    """Write a network as one C99 file with its weights, which computes one sequence step by step.

    The file allocates nothing, for plugins and microcontrollers, and needs no library, except that classifiers and some
    functions (softmax, log_softmax, softplus, exponential) need the C math library. It declares a state, and the
    functions ``NAME_reset`` and ``NAME_step``.

    Parameters
    ----------
    model : Network, RNN, GRU, LSTM, Stacked, LanguageModel, SequenceClassifier or SequenceRegressor
        Unidirectional network or fitted model. Classifiers and regressors include their scales, as in their `stream`:
        the file takes and gives numbers in the units of the training data. That of a LanguageModel takes ids and gives
        logits.
    path : str or os.PathLike
        File to write. An existing file is replaced.
    name : str, optional
        Prefix of all names in the file, a C identifier. By default, it is made from the file's name.

    Raises
    ------
    ValueError
        The network cannot be computed step by step, a parameter is not finite, or `name` is not an identifier.
    TypeError
        `model` is something else.
    OSError
        The file cannot be written. The message names it, and no part of it is left.

    Notes
    -----
    Compiled with ``-ffp-contract=off`` for a processor that treats subnormal numbers as 0, the outputs of the layers
    are those of fastrnn with ``FASTRNN_ISA=v2``, bit for bit. The functions between layers, and ``"softplus"`` in
    them, agree to a few units in the last place.

    Examples
    --------
    >>> import pathlib, tempfile, fastrnn
    >>> from fastrnn.convert import export_c
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "filter.c")
    ...     export_c(fastrnn.GRU(1, 8), path)
    ...     [line for line in path.read_text().splitlines() if line.startswith("void")][:2]
    ['void filter_reset(filter_state *state);', 'void filter_step(filter_state *state, const float *x, float *y);']
    """
    path = Path(path)
    prefix = identifier(path) if name is None else name
    if not isinstance(prefix, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,30}", prefix):
        raise ValueError(
            f"name is {prefix!r}, but it must be a C identifier: at most 31 letters, digits and underscores, a letter "
            "first"
        )
    writer = _Writer(Exported.of(model), prefix)

    def fill(file):
        for piece in writer.pieces():
            file.write(piece.encode("ascii"))

    disk.write_output(path, fill)


def identifier(path: Path) -> str:
    """Make a C identifier from the name of a file: "2-layer.c" is "net_2_layer"."""
    stem = re.sub(r"[^A-Za-z0-9_]", "_", path.stem)
    return (stem if re.match(r"[A-Za-z]", stem) else f"net_{stem.strip('_')}".rstrip("_"))[:31]


class _Writer:
    """The C file of a network. Each step adds arrays, members of the state, functions and lines of the body."""

    def __init__(self, exported, prefix):
        network = exported.network
        self.dtype, self.prefix = network.dtype, prefix
        self.real = "float" if network.dtype == np.float32 else "double"
        self.arrays, self.members, self.start = {}, {}, []  # {name: array}, {name: size}, lines of reset
        self.functions, self.body = set(), []
        self.inexact = self.maths = False  # whether outputs agree to rounding only, and <math.h> is needed
        first = next(iter(network.layers.values()))
        self.ids = isinstance(first, Embedding)
        self.count = first.num_embeddings if self.ids else None
        self.inputs = 1 if self.ids else first.in_features if isinstance(first, Linear) else first.input_size
        self.title = " -> ".join(map(_described, network.steps.values()))
        value, size = "x", self.inputs
        if exported.scaler is not None:
            value = self._scale(exported.scaler, value)
        for name, step in network.steps.items():
            value, size = self._step(name, step, value, size)
        if exported.target_scaler is not None:
            value = self._undo(exported.target_scaler, value)
        self.outputs, self.result = size, value

    def _step(self, name, step, value, size):
        if isinstance(step, Embedding):
            table = self.array(step.params["weight"], name)
            return f"({table} + (size_t)id * {step.embedding_dim})", step.embedding_dim
        if isinstance(step, Linear):
            return self._linear(name, step, value)
        if isinstance(step, Recurrent):
            return self._recurrent(name, step, value)
        if isinstance(step, Stacked):
            return self._stacked(name, step, value)
        return self._function(name, step, value, size)

    # ---- parts of the file -------------------------------------------------------------------------------------------

    def array(self, values, name, real=None):
        """Add a constant array; returns its name. Subnormal numbers become 0, as fastrnn computes with them."""
        real = real or self.real
        values = np.ascontiguousarray(values, {"float": np.float32, "double": np.float64}[real])
        if not np.isfinite(values).all():
            raise ValueError(f"a parameter of {name!r} is not finite, and C has no constant for it")
        values = np.where(np.abs(values) < np.finfo(values.dtype).tiny, np.zeros_like(values), values)
        key = f"{self.prefix}_w{len(self.arrays)}"
        self.arrays[key] = real, values
        return key

    def member(self, size, letter="v"):
        """Add an array to the state; returns the expression for it."""
        key = f"{letter}{len(self.members)}"
        self.members[key] = max(size, 1)
        return f"state->{key}"

    def call(self, name, *arguments):
        self.functions.add(name)
        return f"{self.prefix}_{name}({', '.join(map(str, arguments))})"

    def add(self, *lines):
        self.body.extend(lines)

    def _number(self, value):
        """Constant of the network's type: its value in this type, exactly."""
        found = _cast(self.dtype, value)
        if not np.isfinite(found):
            raise ValueError(f"a number of an activation is {value}, which {self.dtype} cannot represent")
        return _hexadecimal(found) + ("f" if self.real == "float" else "")

    def activation(self, cell, which, value):
        """Expression for gate (0), candidate (1) or output activation (2) of a value."""
        name, numbers = ("sigmoid", "tanh", "tanh")[which], ()
        if cell.functions is not None:
            kind, *numbers = cell.functions[which]
            name = _ACTIVATIONS[kind]
        elif cell.name.startswith("RNN("):
            name = cell.name[4:-1]
        if which < 2 and np.isfinite(_cast(self.dtype, cell.clip)):
            value = self.call("clip", value, self._number(cell.clip))
        return self._elementwise(name, numbers, value)

    def _elementwise(self, name, numbers, value):
        if name == "softplus":
            self.inexact = self.maths = True
        return self.call(name, value, *map(self._number, numbers[: _NUMBERS.get(name, 0)]))

    # ---- steps of the network ----------------------------------------------------------------------------------------

    def _scale(self, scaler, value):
        """Standardize in double, as the model does."""
        v, size = self.member(self.inputs), self.inputs
        mean, divisor = self.array(scaler.mean, "scaler", "double"), self.array(scaler.divisor, "scaler", "double")
        self.add(f"for (int n = 0; n < {size}; n++)")
        self.add(f"    {v}[n] = ({self.real})(((double){value}[n] - {mean}[n]) / {divisor}[n]);")
        return v

    def _undo(self, scaler, value):
        y, size = self.member(len(scaler.mean)), len(scaler.mean)
        mean, scale = self.array(scaler.mean, "scaler", "double"), self.array(scaler.deviation, "scaler", "double")
        self.add(f"for (int n = 0; n < {size}; n++)")
        self.add(f"    {y}[n] = ({self.real})((double){value}[n] * {scale}[n] + {mean}[n]);")
        return y

    def _linear(self, name, layer, value):
        N, K = layer.out_features, layer.in_features
        w, y = self.array(layer.params["weight"].T, name), self.member(N)
        self.add(f"{self.call('set', N, y, 0)};", f"{self.call('product', K, N, value, w, y)};")
        if "bias" in layer.params:
            self.add(f"{self.call('add', N, y, self.array(layer.params['bias'], name))};")
        return y, N

    def _function(self, name, step, value, size):
        function, *numbers = (step,) if isinstance(step, str) else step
        if function not in FUNCTIONS:
            raise ValueError(
                f"step {name!r} is {step!r}, which needs the whole sequence: the C code computes step by step"
            )
        self.inexact, y = True, self.member(size)
        self.add(f"memcpy({y}, {value}, sizeof {y});")
        self.maths |= function in ("softmax", "log_softmax", "exponential")
        if function in ("softmax", "log_softmax"):
            self.add(f"{self.call('softmax', size, y, int(function == 'log_softmax'))};")
            return y, size
        if function == "exponential":  # that of the layers has a largest value
            changed = f"exp{'f' if self.real == 'float' else ''}({y}[n])"
        else:
            numbers = (*numbers, *_STEP_DEFAULTS.get(function, ())[len(numbers) :])
            changed = self._elementwise(function, numbers, f"{y}[n]")
        self.add(f"for (int n = 0; n < {size}; n++)", f"    {y}[n] = {changed};")
        return y, size

    def _stacked(self, name, stack, value):
        for k, layer in enumerate(stack.layers):
            y, size = self._recurrent(f"{name}.{k}", layer, value)
            if stack.residual and k:
                total = self.member(size)
                self.add(f"memcpy({total}, {y}, sizeof {total});", f"{self.call('add', size, total, value)};")
                y = total
            value = y
        return value, size

    def _recurrent(self, name, rnn, value):
        if rnn.bidirectional or rnn.reverse:
            kind = "is bidirectional" if rnn.bidirectional else "runs in reverse"
            raise ValueError(
                f"layer {name!r} {kind}, so its outputs depend on future inputs: the C code computes step by step"
            )
        if rnn.context_size:
            raise ValueError(f"{name!r} has context_size={rnn.context_size}, which a C file does not take: use 0")
        size = rnn.input_size
        for l in range(rnn.num_layers):
            own = {key.removesuffix(f"_l{l}"): a for key, a in rnn.params.items() if key.endswith(f"_l{l}")}
            sizes, states = rnn.state_sizes, []
            for k, letter in enumerate("hc"[: len(sizes)]):
                state = self.member(sizes[k], letter)
                states.append(state)
                self.start.append(f"{self.call('set', sizes[k], state, 0)};")
                if rnn.learn_initial_state:
                    learnt = self.array(rnn.params[rnn.cell.states[k]][l], name)
                    self.start.append(f"memcpy({state}, {learnt}, sizeof {state});")
            layer = LayerLines(self, name, rnn.cell, own, rnn.hidden_size, size, sizes[0])
            layer.write(value, *states)
            value, size = states[0], sizes[0]
        return value, size

    # ---- the file ----------------------------------------------------------------------------------------------------

    def pieces(self) -> Iterator[str]:
        """Yield the text of the file."""
        prefix, x = self.prefix, "int32_t id" if self.ids else f"const {self.real} *x"
        step = f"{'int' if self.ids else 'void'} {prefix}_step({prefix}_state *state, {x}, {self.real} *y)"
        members = "".join(f"    {self.real} {name}[{size}];\n" for name, size in self.members.items())
        rounding = ".\n * Functions between layers, and softplus, agree to a few units in the last place"
        yield _HEADER.format(
            title=self.title, prefix=prefix, PREFIX=prefix.upper(), inputs=self.inputs, outputs=self.outputs, step=step,
            library=" but C's mathematical functions (-lm)" if self.maths else "",
            members=members or "    char unused;\n", inexact=rounding if self.inexact else "",
            includes="".join(f"#include <{name}.h>\n" for name in (("math", "string") if self.maths else ("string",))),
            given="id" if self.ids else "x",
            takes=f"an id below {self.count}" if self.ids else f"{_numbers(self.inputs)} x",
            gives=_numbers(self.outputs),
            alias="" if self.ids else "y may be the same array as x, with room for both. ",
        )  # fmt: skip
        for name, (real, values) in self.arrays.items():
            yield f"static const {real} {name}[{max(values.size, 1)}] = {{\n"
            flat, suffix = values.ravel(), "f" if real == "float" else ""
            for at in range(0, max(len(flat), 1), 6):
                row = flat[at : at + 6].tolist() or [0.0]
                yield "    " + ", ".join(_hexadecimal(v) + suffix for v in row) + ",\n"
            yield "};\n\n"
        yield c_functions.source(self.functions, self.real == "double", prefix)
        yield f"\nvoid {prefix}_reset({prefix}_state *state)\n{{\n"
        yield "".join(f"    {line}\n" for line in self.start or ["(void)state;"])
        yield f"}}\n\n{step}\n{{\n"
        if self.ids:
            yield f"    if (id < 0 || id >= {self.count})      /* nothing is computed */\n        return 1;\n"
        elif not self.inputs:
            yield "    (void)x;\n"
        if not self.members:
            yield "    (void)state;\n"
        yield "".join(f"    {line}\n" for line in self.body)
        yield f"    memcpy(y, {self.result}, {self.outputs} * sizeof *y);\n"
        yield ("    return 0;\n" if self.ids else "") + "}\n\n#endif\n"


def _cast(dtype, value):
    """A number in the network's type; infinity, if it is too large."""
    with np.errstate(over="ignore"):
        return float(dtype.type(value))


def _numbers(n):
    return f"{n} number{'s' * (n != 1)}"


def _hexadecimal(value):
    """Exact C99 constant of a number."""
    mantissa, exponent = value.hex().split("p")
    return f"{mantissa.rstrip('0') if '.' in mantissa else mantissa}p{exponent}"


def _described(step):
    """Short description of a step for the comment at the top of the file: kinds and sizes only."""
    if isinstance(step, Stacked):
        return "Stacked(" + ", ".join(map(_described, step.layers)) + ")"
    if isinstance(step, Embedding):
        return f"Embedding({step.num_embeddings}, {step.embedding_dim})"
    if isinstance(step, Linear):
        return f"Linear({step.in_features}, {step.out_features})"
    if isinstance(step, Recurrent):
        layers = f", num_layers={step.num_layers}" if step.num_layers > 1 else ""
        return f"{type(step).__name__}({step.input_size}, {step.hidden_size}{layers})"
    return step if isinstance(step, str) else step[0]
