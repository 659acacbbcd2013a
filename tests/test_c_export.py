"""Networks exported as C: compiled without warnings, and equal to the portable build bit for bit."""

import ctypes
import itertools
import platform
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import numpy as np
import pytest

import fastrnn
from fastrnn import _engine
from fastrnn.convert import c_functions, convert, export_c

CC = (sysconfig.get_config_var("CC") or "cc").split()[0]
FLAGS = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-ffp-contract=off", "-O2"]

_numbers = itertools.count()
pytestmark = [
    pytest.mark.skipif(shutil.which(CC) is None, reason="no C compiler: exported C files are NOT tested"),
    pytest.mark.skipif("v2" not in _engine.available_isas(), reason="no portable kernels: exported C is NOT tested"),
]


# Runs all steps, from another file that sees the declarations alone. Subnormal numbers are 0, as in fastrnn.
PROBE = """\
#define {PREFIX}_DECLARATIONS
#include <stddef.h>
#include <xmmintrin.h>
#include "{prefix}.c"

size_t state_size(void);
int run(int T, {prefix}_state *state, const {taken} *x, {real} *y);

size_t state_size(void)
{{
    return sizeof({prefix}_state);
}}

int run(int T, {prefix}_state *state, const {taken} *x, {real} *y)
{{
    const unsigned mode = _mm_getcsr();
    int wrong = 0;
    _mm_setcsr(mode | 0x8040);
    for (int t = 0; t < T; t++, x += {PREFIX}_INPUTS, y += {PREFIX}_OUTPUTS)
        {step};
    _mm_setcsr(mode);
    return wrong;
}}
"""


class Compiled:
    """The compiled file of a network."""

    def __init__(self, model, folder, name="net", flags=()):
        export_c(model, folder / f"{name}.c", name=name)
        real = "float" if model.dtype == np.float32 else "double"
        ids = isinstance(model, fastrnn.Network) and isinstance(next(iter(model.layers.values())), fastrnn.Embedding)
        step = f"wrong |= {name}_step(state, *x, y)" if ids else f"{name}_step(state, x, y)"
        text = PROBE.format(prefix=name, PREFIX=name.upper(), real=real, taken="int32_t" if ids else real, step=step)
        (folder / "probe.c").write_text(text)
        library = folder / f"{next(_numbers)}.so"  # the system keeps a library that is loaded already
        sources = [str(folder / f"{name}.c"), str(folder / "probe.c")]
        # linked by another command: GCC's -funsafe-math-optimizations links code that flushes denormals in the process
        compiled = [str(folder / f"{k}.o") for k in range(len(sources))]
        commands = [[CC, *FLAGS, *flags, "-fPIC", "-c", source, "-o", made] for source, made in zip(sources, compiled)]
        for command in (*commands, [CC, "-shared", *compiled, "-o", str(library), "-lm"]):
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
        self.library = ctypes.CDLL(str(library))
        self.library.state_size.restype = ctypes.c_size_t
        self.prefix, self.dtype, self.ids = name, model.dtype, ids
        # the state begins with garbage: reset must set all that step reads
        self.state = ctypes.create_string_buffer(b"\xff" * self.library.state_size())
        self.reset()

    def reset(self):
        getattr(self.library, f"{self.prefix}_reset")(self.state)

    def run(self, x, outputs):
        """Outputs (T, outputs) of the steps x (T, inputs), or ids (T,)."""
        x = np.ascontiguousarray(x, np.int32 if self.ids else self.dtype)
        y = np.full((len(x), outputs), np.nan, self.dtype)
        pointers = [ctypes.c_void_p(a.ctypes.data) for a in (x, y)]
        assert self.library.run(len(x), self.state, *pointers) == 0
        return y


@pytest.fixture
def portable():
    """Computes without fused multiply-add: the instruction set whose bits C gives."""
    kept = _engine.isa()
    _engine.set_isa("v2")
    yield
    _engine.set_isa(kept)


def moved(model, seed):
    """The same model with all parameters random, biases and peepholes too."""
    rng = np.random.default_rng(seed)
    for layer in getattr(model, "layers", {"": model}).values() if isinstance(model, fastrnn.Network) else [model]:
        with layer.updating() as flat:
            flat[:] = rng.uniform(-0.6, 0.6, flat.size)
    return model


def check(model, tmp_path, seed=0, T=37, flags=(), equal=True):
    net = model if isinstance(model, fastrnn.Network) else fastrnn.Network({"rnn": model})
    moved(net, seed)
    first, rng = next(iter(net.layers.values())), np.random.default_rng(seed + 1)
    if isinstance(first, fastrnn.Embedding):
        x = rng.integers(0, first.num_embeddings, T)
    else:
        size = first.in_features if isinstance(first, fastrnn.Linear) else first.input_size
        x = rng.uniform(-2, 2, (T, size)).astype(net.dtype)
    want = net(x[:, None])[0]
    want = want[:, 0]
    compiled = Compiled(net, tmp_path, flags=flags)
    for _ in range(2):  # reset restores the initial state
        got = compiled.run(x, want.shape[1])
        if equal:
            np.testing.assert_array_equal(got, want)
        else:
            np.testing.assert_allclose(got, want, rtol=3e-6 if net.dtype == np.float32 else 1e-14, atol=1e-6)
        compiled.reset()


CELLS = {
    "rnn": lambda **o: fastrnn.RNN(3, 5, **o),
    "rnn_relu": lambda **o: fastrnn.RNN(3, 5, nonlinearity="relu", **o),
    "rnn_sigmoid": lambda **o: fastrnn.RNN(3, 17, nonlinearity="sigmoid", **o),
    "rnn_clip": lambda **o: fastrnn.RNN(3, 5, nonlinearity="tanh", clip=0.5, **o),
    "gru": lambda **o: fastrnn.GRU(3, 9, **o),
    "gru_two_layers": lambda **o: fastrnn.GRU(3, 9, num_layers=2, **o),
    "gru_before": lambda **o: fastrnn.GRU(3, 9, reset_after=False, **o),
    "gru_before_options": lambda **o: fastrnn.GRU(3, 9, reset_after=False, activation="relu", clip=0.7, **o),
    "gru_options": lambda **o: fastrnn.GRU(3, 9, activation="softsign", recurrent_activation="hard_sigmoid", **o),
    "lstm": lambda **o: fastrnn.LSTM(3, 8, **o),
    "lstm_large": lambda **o: fastrnn.LSTM(70, 67, **o),
    "lstm_no_bias": lambda **o: fastrnn.LSTM(3, 8, bias=False, **o),
    "lstm_initial_state": lambda **o: fastrnn.LSTM(3, 8, learn_initial_state=True, num_layers=3, **o),
    "lstm_peephole": lambda **o: fastrnn.LSTM(3, 8, peephole=True, clip=0.4, **o),
    "lstm_coupled": lambda **o: fastrnn.LSTM(3, 8, coupled=True, **o),
    "lstm_coupled_peephole": lambda **o: fastrnn.LSTM(3, 8, coupled=True, peephole=True, **o),
    "lstm_projected": lambda **o: fastrnn.LSTM(3, 8, proj_size=5, num_layers=2, output_activation="relu", **o),
    "autonomous": lambda **o: fastrnn.LSTM(0, 8, learn_initial_state=True, **o),
}
ACTIVATIONS = [
    "tanh", "sigmoid", "relu", ("affine", 0.3, 0.1), "leaky_relu", ("thresholded_relu", 0.2),
    ("scaled_tanh", 0.7, 1.3), "hard_sigmoid", ("elu", 0.6), "softsign", "selu", "silu", "exponential", "linear",
]  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cell", CELLS)
def test_cells(cell, dtype, tmp_path, portable):
    check(CELLS[cell](dtype=dtype), tmp_path)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_activations(activation, dtype, tmp_path, portable):
    """Each activation as that of the output, where no state grows, and of an RNN."""
    lstm = fastrnn.LSTM(2, 6, recurrent_activation="hard_sigmoid", output_activation=activation, dtype=dtype)
    check(lstm, tmp_path, 3)
    check(fastrnn.RNN(2, 6, nonlinearity=activation, clip=0.9, dtype=dtype), tmp_path, 4)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_activations_everywhere(dtype, tmp_path, portable):
    """Over all magnitudes, and NaN and infinity, of which tests with small states see nothing."""
    scale = np.array([1e-30, 1e-6, 1e-3, 1, 8.3, 8.4, 16.6, 16.8, 88, 90, 1e5, 1e30], dtype)
    x = np.concatenate([s * np.linspace(-1, 1, 201).astype(dtype) for s in scale] + [[np.inf, -np.inf, np.nan]])
    x = np.where(np.abs(x) < 1e-29, 0, x).astype(dtype)[:, None]
    for k, activation in enumerate(["tanh", "sigmoid", "silu", "exponential", "selu"]):
        net = fastrnn.RNN(1, 1, nonlinearity=activation, dtype=dtype)
        with net.updating() as flat:
            flat[:] = [1, 0, 0, 0]
        folder = tmp_path / str(k)
        folder.mkdir()
        compiled = Compiled(net, folder)
        got = compiled.run(x[:-3], 1)
        want = net(x[:-3, None])[0][:, 0]
        finite = np.isfinite(want)  # 0 * infinity is NaN from the next step on
        stop = len(want) if finite.all() else finite.argmin() + 1
        np.testing.assert_array_equal(got[:stop], want[:stop])
        assert stop > 2000
        for value in x[-3:]:
            compiled.reset()
            np.testing.assert_array_equal(compiled.run(value[None], 1), net(value[None, None])[0][:, 0])


def test_chains_of_layers(tmp_path, portable):
    net = fastrnn.Network({
        "ids */ int x; /*": fastrnn.Embedding(11, 4), "rnn": fastrnn.Stacked(
            [fastrnn.GRU(4, 6), fastrnn.LSTM(6, 6), fastrnn.RNN(6, 6)], residual=True),
        "linear": fastrnn.Linear(6, 7), "last": fastrnn.Linear(7, 3, bias=False),
    })  # fmt: skip
    check(net, tmp_path)
    assert Compiled(net, tmp_path).library.net_step(None, ctypes.c_int32(11), None) == 1  # no such id
    assert Compiled(net, tmp_path).library.net_step(None, ctypes.c_int32(-1), None) == 1
    check(fastrnn.Network({"linear": fastrnn.Linear(3, 2)}), tmp_path)
    check(fastrnn.Network({"ids": fastrnn.Embedding(5, 3)}), tmp_path)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_functions_between_layers(dtype, tmp_path):
    """They are those of NumPy, so they agree to rounding."""
    for k, function in enumerate(fastrnn.layers.network.FUNCTIONS):
        net = {"rnn": fastrnn.GRU(3, 8, dtype=dtype), "linear": fastrnn.Linear(8, 6, dtype=dtype), "f": function}
        folder = tmp_path / str(k)
        folder.mkdir()
        check(fastrnn.Network(net), folder, seed=k, equal=False)
    for k, function in enumerate([("leaky_relu", 0.3), ("hard_sigmoid", 0.4, 0.2), ("elu", 0.7)]):
        net = {"rnn": fastrnn.GRU(3, 8, dtype=dtype), "f": function, "linear": fastrnn.Linear(8, 6, dtype=dtype)}
        check(fastrnn.Network(net), tmp_path, seed=k, equal=False)
    check(fastrnn.RNN(3, 4, nonlinearity="softplus", clip=2.0, dtype=dtype), tmp_path, equal=False)


@pytest.mark.parametrize("flags", [["-O0"], ["-O3", "-march=native"], ["-Os"]], ids=str)
def test_optimisation_does_not_change_bits(flags, tmp_path, portable):
    check(fastrnn.Network({"rnn": fastrnn.LSTM(5, 21), "linear": fastrnn.Linear(21, 4)}), tmp_path, flags=flags)


def test_refusals(tmp_path):
    target = tmp_path / "net.c"
    cases = [
        (fastrnn.GRU(2, 3, bidirectional=True), {}, "bidirectional"),
        (fastrnn.GRU(2, 3, reverse=True), {}, "reverse"),
        (fastrnn.GRU(2, 3, context_size=4), {}, "context_size=4"),
        (fastrnn.Network({"rnn": fastrnn.GRU(2, 3), "end": "last"}), {}, "whole sequence"),
        (fastrnn.GRU(2, 3), {"name": "a b"}, "C identifier"),
        (fastrnn.GRU(2, 3), {"name": "x" * 32}, "C identifier"),
    ]
    for model, options, message in cases:
        with pytest.raises(ValueError, match=message):
            export_c(model, target, **options)
    bad = fastrnn.GRU(2, 3)
    with bad.updating() as flat:
        flat[-1] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        export_c(bad, target)
    assert not target.exists()
    with pytest.raises(TypeError, match="model is a SequenceTagger"):
        export_c(fastrnn.models.SequenceTagger(), target)
    with pytest.raises(RuntimeError, match="fit"):
        export_c(fastrnn.models.LanguageModel(), target)


def test_fast_math_is_refused(tmp_path):
    export_c(fastrnn.GRU(2, 3, dtype="float64"), tmp_path / "net.c")
    command = [CC, "-std=c99", "-ffast-math", "-c", str(tmp_path / "net.c"), "-o", str(tmp_path / "net.o")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode and "-ffast-math" in done.stderr


@pytest.mark.parametrize(
    ("file", "prefix"),
    [("filter.c", "filter"), ("my-model.c", "my_model"), ("2.c", "net_2"), ("ü.c", "net"), (f"{'a' * 40}.c", "a" * 31)],
)
def test_names_from_files(file, prefix, tmp_path):
    export_c(fastrnn.GRU(2, 3), tmp_path / file)
    assert f"void {prefix}_reset({prefix}_state *state);" in (tmp_path / file).read_text()


def test_convert_compiles_and_compares(tmp_path):
    net = fastrnn.Network({"ids": fastrnn.Embedding(9, 4), "rnn": fastrnn.LSTM(4, 8), "linear": fastrnn.Linear(8, 9)})
    net.save(tmp_path / "model")
    said = convert(tmp_path / "model", tmp_path / "two words.c")
    assert "two_words_step; compiled by" in said[-1] and "8 random steps agree" in said[-1]
    assert Compiled(net, tmp_path).run(np.arange(9), 9).shape == (9, 9)
    with pytest.raises(ValueError, match="already exists"):
        convert(tmp_path / "model", tmp_path / "two words.c")


@pytest.mark.parametrize("layer", [fastrnn.GRU(0, 4), fastrnn.GRU(3, 4, batch_first=True), fastrnn.RNN(2, 3)], ids=str)
def test_convert_of_other_inputs(layer, tmp_path):
    fastrnn.Network({"rnn": layer}).save(tmp_path / "model")
    assert "8 random steps agree" in convert(tmp_path / "model", tmp_path / "net.c")[-1]


def test_convert_without_a_compiler(tmp_path, monkeypatch):
    fastrnn.Network({"rnn": fastrnn.GRU(2, 3)}).save(tmp_path / "model")
    monkeypatch.setenv("CC", "no-such-compiler")
    assert "were NOT compared" in convert(tmp_path / "model", tmp_path / "a.c")[-1]
    monkeypatch.setenv("CC", "false")
    assert "could NOT be compiled by false" in convert(tmp_path / "model", tmp_path / "b.c")[-1]


def test_convert_refuses_a_file_that_computes_something_else(tmp_path, monkeypatch):
    fastrnn.Network({"rnn": fastrnn.GRU(2, 3)}).save(tmp_path / "model")
    tanh = c_functions._FLOAT["tanh"]
    monkeypatch.setitem(c_functions._FLOAT, "tanh", tanh.replace("(a + a) * b /", "(a + a) * b * 0.99f /"))
    with pytest.raises(ValueError, match="differ from fastrnn's"):
        convert(tmp_path / "model", tmp_path / "net.c")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_convert_a_language_model(tmp_path):
    model = fastrnn.models.LanguageModel(hidden_size=12, seed=0)
    model.fit("to be or not to be, that is the question " * 80, epochs=1, verbose=False)
    model.save(tmp_path / "model")
    said = convert(tmp_path / "model", tmp_path / "text.c")[-1]
    assert "logits in the order of the vocabulary" in said and "random steps agree" in said


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("kind", ["classifier", "regressor", "regressor of steps"])
def test_models_take_and_give_numbers_in_their_units(kind, standardize, tmp_path, portable):
    rng = np.random.default_rng(0)
    X = (rng.standard_normal((12, 9, 3)) * [1, 50, 1e-3] + [0, 1000, 5]).astype("float32")
    if not standardize:
        X = X / np.array([1, 1000, 5], "float32")
    if kind == "classifier":
        model = fastrnn.models.SequenceClassifier("gru", 7, standardize=standardize, seed=0)
        model.fit(X, np.arange(12) % 3, epochs=2, verbose=False)
    else:
        per_step = kind != "regressor"
        model = fastrnn.models.SequenceRegressor("lstm", 7, per_step=per_step, standardize=standardize, seed=0)
        y = 1e4 * standardize + X[..., :2].cumsum(1)
        model.fit(X, y if per_step else y[:, -1], epochs=2, verbose=False)
    want = model.stream().run(X[0][:, None])[:, 0]
    got = Compiled(model, tmp_path).run(X[0], want.shape[1])
    if kind == "classifier":
        np.testing.assert_allclose(got, want, rtol=1e-6)
    else:
        np.testing.assert_array_equal(got, want.astype("float32"))
    model.save(tmp_path / "model")
    assert "8 random steps agree" in convert(tmp_path / "model", tmp_path / "other.c")[-1]


def test_models_that_need_the_whole_sequence_are_refused(tmp_path):
    X = np.random.default_rng(0).standard_normal((6, 5, 2))
    model = fastrnn.models.SequenceClassifier("rnn", 4, pooling="max", seed=0)
    model.fit(X, np.arange(6) % 2, epochs=1, verbose=False).save(tmp_path / "model")
    with pytest.raises(ValueError, match="pooling='max'"):
        convert(tmp_path / "model", tmp_path / "net.c")
    tagger = fastrnn.models.SequenceTagger("rnn", 4, word_size=4, char_size=4, char_hidden_size=4, seed=0)
    tagger.fit([["a", "b"]] * 4, [["x", "y"]] * 4, epochs=1, verbose=False).save(tmp_path / "tagger")
    with pytest.raises(ValueError, match="a SequenceTagger cannot be written as C"):
        convert(tmp_path / "tagger", tmp_path / "net.c")
    with pytest.raises(ValueError, match=r"use the suffix \.c"):
        convert(tmp_path / "model", tmp_path / "net.C")
    with pytest.raises(ValueError, match="--between tanh does not apply"):
        convert(tmp_path / "model", tmp_path / "net.c", between="tanh")


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler: use from C++ is NOT tested")
def test_a_program_in_cpp_can_use_it(tmp_path):
    export_c(fastrnn.GRU(1, 4), tmp_path / "net.c")
    (tmp_path / "main.cpp").write_text(
        '#define NET_DECLARATIONS\n#include "net.c"\n'
        "int main() { net_state s; float x = 1; net_reset(&s); float y[4]; net_step(&s, &x, y); return 0; }\n"
    )
    commands = [[CC, "-std=c99", "-c", "net.c", "-o", "net.o"], ["g++", "main.cpp", "net.o", "-o", "main"], ["./main"]]
    for command in commands:
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_the_program_in_the_documentation(tmp_path):
    page = (Path(__file__).parents[1] / "docs" / "moving.md").read_text(encoding="utf-8")
    (tmp_path / "main.c").write_text(re.search(r"```c\n(#include <stdio.*?)```", page, re.DOTALL)[1])
    net = moved(fastrnn.Network({"rnn": fastrnn.LSTM(2, 4), "linear": fastrnn.Linear(4, 3)}), 0)
    export_c(net, tmp_path / "filter.c")
    subprocess.run([CC, *FLAGS, "main.c", "filter.c", "-o", "main", "-lm"], cwd=tmp_path, check=True)
    done = subprocess.run(["./main"], cwd=tmp_path, check=True, input="1 2 3 4", capture_output=True, text=True)
    got = np.array([line.split() for line in done.stdout.splitlines()], "float32")
    np.testing.assert_allclose(got, net(np.array([[[1, 2]], [[3, 4]]], "float32"))[0][:, 0], atol=1e-5)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="options of x86")
@pytest.mark.parametrize("flags", ["-std=gnu99 -mfpmath=387", "-funsafe-math-optimizations", "-ffp-contract=fast"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_other_roundings_of_a_compiler_change_the_last_digits_only(dtype, flags, tmp_path):
    for k, net in enumerate([fastrnn.LSTM(3, 8, dtype=dtype), fastrnn.RNN(3, 8, nonlinearity="elu", dtype=dtype)]):
        folder = tmp_path / str(k)
        folder.mkdir()
        check(net, folder, flags=flags.split(), equal=False)


def test_numbers_beyond_the_dtype(tmp_path, portable):
    check(fastrnn.RNN(2, 3, clip=1e39), tmp_path)  # clips nothing
    with pytest.raises(ValueError, match="1e\\+39, which float32 cannot represent"):
        export_c(fastrnn.RNN(2, 3, nonlinearity=("affine", 1e39, 0.0)), tmp_path / "net.c")


def test_convert_with_a_compiler_that_cannot_be_read(tmp_path, monkeypatch):
    fastrnn.Network({"rnn": fastrnn.GRU(2, 3)}).save(tmp_path / "model")
    monkeypatch.setenv("CC", 'gcc "')
    assert "$CC is 'gcc \"' (No closing quotation)" in convert(tmp_path / "model", tmp_path / "a.c")[-1]
