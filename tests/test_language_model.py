"""The character model and the training loop: gradients, bits, resume, interruption, files, messages."""

import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import processes
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from whole_model import assert_gradient

import fastrnn
from fastrnn import optim
from fastrnn._files import storage
from fastrnn.batches import Streams, Window
from fastrnn.layers.feedforward import random_key
from fastrnn.losses import softmax_cross_entropy
from fastrnn.models import LanguageModel
from fastrnn.models.sampler import Sampler
from fastrnn.models.text import Vocabulary, read_text
from fastrnn.training.interrupts import Interrupts

CELLS = ["lstm", "gru", "rnn"]
TEXT = "".join(f"{n} squared is {n * n}, and cubed {n**3}.\n" for n in range(140))  # about 4,640 characters
QUICK = dict(epochs=3, batch_size=5, seq_len=17, lr=0.01, verbose=False)
EPOCH = 57  # updates of an epoch on TEXT with QUICK


def small(cell="gru", **options):
    return LanguageModel(cell, **{"hidden_size": 12, "num_layers": 2, "dropout": 0.2, "seed": 3} | options)


def parameters(model):
    return np.array(model.storage.flat)


def python(code, *arguments):
    """Start a process that runs code with the names that these tests use."""
    # children of a background shell ignore Ctrl-C
    head = "from test_language_model import *; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    return subprocess.Popen(
        [sys.executable, "-c", head + textwrap.dedent(code), *map(str, arguments)],
        env=processes.environment(**{name: value for name, value in os.environ.items() if name.startswith("FASTRNN_")}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# ---- the gradient -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(
    "options",
    [{}, {"dropout": 0.3}, {"tied": True, "embedding_size": 5, "dropout": 0.3, "label_smoothing": 0.2}],
    ids=["plain", "dropout", "tied"],
)
def test_gradient_of_the_whole_model_matches_central_differences(cell, options):
    """Check the gradient of every parameter, with a carried state and the same dropout masks each time."""
    options = {"hidden_size": 5, "embedding_size": 4, "dropout": 0.0, "dtype": "float64"} | options
    model = small(cell, **options).fit(TEXT[:900], **QUICK | {"epochs": 1})
    rng = np.random.default_rng(0)
    state = tuple(rng.standard_normal((2, 3, 5)) for _ in range(2))
    batch = Window(rng.integers(0, 5, (4, 3)), rng.integers(0, len(model.vocabulary), (4, 3)), 0, 4)

    def loss(into):
        return model.loss_and_gradient(batch, state if cell == "lstm" else state[0], into=into, rng=7)[0]

    grad, other = np.zeros_like(model.storage.flat), np.zeros_like(model.storage.flat)
    loss(grad)
    want = np.empty_like(grad)
    for k in range(len(grad)):
        values = []
        for change in (1e-5, -2e-5):
            with model.storage.updating() as flat:
                flat[k] += change
            values.append(loss(other))
        with model.storage.updating() as flat:
            flat[k] += 1e-5
        want[k] = (values[0] - values[1]) / 2e-5
    assert_allclose(grad, want, rtol=1e-6, atol=2e-9)
    assert np.abs(grad[: 4 * 5]).max() > 1e-3  # the rows of the embedding that occur


@pytest.mark.parametrize("cell", CELLS)
def test_fit_is_this_loop(cell):
    limits = {"clip_value": 0.02, "clip_norm": 0.1}
    model = small(cell).fit(TEXT, **QUICK, **limits, schedule=optim.StepDecay(0.5), validation=0)
    twin = small(cell).fit(TEXT, **QUICK | {"epochs": 0}, validation=0)
    adam, grad, update, clipped = optim.Adam(twin.storage), np.zeros_like(twin.storage.flat), 0, [0, 0]
    for epoch in range(3):
        state = None
        for ids, targets, *_ in Streams(twin.vocabulary.encode(TEXT), 5, 17):
            key = random_key(3, update)
            (y, state), rnn_backward = twin.rnn.vjp(ids, state, embedding=twin.embedding, rng=key)
            dropped, dropout_backward = twin.output_dropout.vjp(y, rng=random_key(key, 1))
            logits, linear_backward = twin.linear.vjp(dropped)
            loss, loss_backward = softmax_cross_entropy.vjp(logits, targets)
            grad.fill(0)
            rnn_backward(dropout_backward(linear_backward(loss_backward(), into=grad).x).x, into=grad)
            clipped[0] += np.abs(grad).max() > 0.02
            optim.clip_by_value(grad, 0.02)
            norm, scale = optim.clip_by_global_norm(grad, 0.1)
            clipped[1] += norm > 0.1
            adam.lr = 0.01 * 0.5**epoch
            adam.step(grad, scale)
            update += 1
    assert_array_equal(parameters(model), twin.storage.flat)
    assert min(clipped) > 20
    assert model.history[-1]["update"] == update


# ---- the same bits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS)
def test_the_same_seed_gives_the_same_run_on_any_number_of_threads(cell):
    runs = []
    for threads in (1, 2, 3):
        fastrnn.set_num_threads(threads)
        model = small(cell, hidden_size=48).fit(TEXT, **QUICK | {"batch_size": 24, "epochs": 1})
        runs.append((parameters(model), model.history))
    for flat, history in runs[1:]:
        assert_array_equal(flat, runs[0][0])
        assert history == runs[0][1]
    other = small(cell, hidden_size=48, seed=4).fit(TEXT, **QUICK | {"batch_size": 24, "epochs": 1})
    assert (parameters(other) != runs[0][0]).any()


class Broken(Exception):
    pass


def fit_until(model, updates, **options):
    """Train and exit after some updates, as abruptly as a process can without being killed."""
    real, count = model.loss_and_gradient, []

    def limited(*arguments, **rest):
        count.append(1)
        if len(count) > updates:
            raise Broken
        return real(*arguments, **rest)

    model.loss_and_gradient = limited
    with pytest.raises(Broken):
        model.fit(TEXT, **options)


OPTIMIZERS = {
    "adam": {"schedule": optim.Cosine(3)},
    "rmsprop": {
        "schedule": optim.ReduceOnPlateau(0.5, patience=0, threshold=0.5),
        "clip_norm": None,
        "clip_value": 0.05,
    },
    "sgd": {"optimizer": lambda storage, lr: optim.SGD(storage, lr=lr, momentum=0.9), "evaluate_every": 20},
    "without validation": {"validation": 0, "optimizer": "adagrad"},
}


@pytest.mark.parametrize(
    "cell, name", [("lstm", "adam"), ("gru", "rmsprop"), ("rnn", "sgd"), ("gru", "without validation")]
)
@pytest.mark.parametrize("updates", [1, EPOCH, EPOCH + 1, EPOCH + 20])
def test_resume_continues_to_the_same_bits(cell, name, updates, tmp_path):
    """Training ends just after the first update, at the end of an epoch, or in the middle of one."""
    options = QUICK | OPTIMIZERS[name] | {"optimizer": OPTIMIZERS[name].get("optimizer", name)}
    whole = small(cell).fit(TEXT, **options)
    fit_until(small(cell), updates, **options, checkpoint=tmp_path / "c", checkpoint_every=0)
    assert storage.load(tmp_path / "c", kind="checkpoint")[1]["position"]["update"] == updates
    again = small(cell).fit(TEXT, **options, checkpoint=tmp_path / "c", resume=True)
    assert_array_equal(parameters(again), parameters(whole))
    assert again.history == whole.history
    assert {EPOCH, 3 * EPOCH} <= {entry["update"] for entry in whole.history} or name == "without validation"
    assert (again.outcome, again.message) == ("finished", None)
    assert_array_equal(parameters(LanguageModel.load(tmp_path / "c")), parameters(whole))


def test_resume_after_kill_9_in_the_middle_of_an_epoch(tmp_path):
    whole = small("lstm").fit(TEXT, **QUICK)
    process = python(
        """
        model = small("lstm")
        real = model.loss_and_gradient
        def slow(*arguments, **options):
            time.sleep(0.005)
            return real(*arguments, **options)
        model.loss_and_gradient = slow
        model.fit(TEXT, **QUICK, checkpoint=sys.argv[1], checkpoint_every=0.05)
        """,
        tmp_path / "c",
    )
    with process:
        reached = 0
        while reached < 60:
            time.sleep(0.01)
            assert process.poll() is None, process.stderr.read()
            if storage.exists(tmp_path / "c", kind="checkpoint"):
                reached = storage.load(tmp_path / "c", kind="checkpoint")[1]["position"]["update"]
        process.send_signal(signal.SIGKILL)
    position = storage.load(tmp_path / "c", kind="checkpoint")[1]["position"]
    assert 0 < position["index"] < EPOCH
    again = small("lstm").fit(TEXT, **QUICK, checkpoint=tmp_path / "c", resume=True)
    assert_array_equal(parameters(again), parameters(whole))
    assert again.history == whole.history


def test_a_finished_training_can_be_made_longer(tmp_path):
    whole = small().fit(TEXT, **QUICK | {"epochs": 4})
    small().fit(TEXT, **QUICK | {"epochs": 2}, checkpoint=tmp_path)
    longer = small().fit(TEXT, **QUICK | {"epochs": 4}, checkpoint=tmp_path, resume=True)
    assert_array_equal(parameters(longer), parameters(whole))


def test_resume_in_an_empty_directory_begins(tmp_path):
    model = small().fit(TEXT, **QUICK | {"epochs": 1}, checkpoint=tmp_path / "new", resume=True)
    assert_array_equal(parameters(LanguageModel.load(tmp_path / "new")), parameters(model))


def test_resume_continues_a_run_of_an_unknown_seed(tmp_path):
    model = small(seed=None).fit(TEXT, **QUICK | {"epochs": 2}, checkpoint=tmp_path)
    seeds = [storage.load(tmp_path, kind="checkpoint")[1]["position"]["seed"]]
    small(seed=None).fit(TEXT, **QUICK | {"epochs": 3}, checkpoint=tmp_path, resume=True)
    seeds.append(storage.load(tmp_path, kind="checkpoint")[1]["position"]["seed"])
    assert seeds[0] == seeds[1]
    assert (parameters(model) != parameters(small(seed=None).fit(TEXT, **QUICK | {"epochs": 2}))).any()


# ---- the end of training ------------------------------------------------------------------------------------------


def test_ctrl_c_stops_within_half_a_second_and_keeps_the_best(tmp_path):
    """Training that is repeatedly interrupted and resumed reaches the same bits as an uninterrupted run."""
    code = """
        started = []
        real = LanguageModel.loss_and_gradient
        def announced(self, *arguments, **options):
            if not started:
                started.append(print("go", flush=True))
            time.sleep(0.004)
            return real(self, *arguments, **options)
        LanguageModel.loss_and_gradient = announced
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model = small("lstm").fit(TEXT, **QUICK, checkpoint=sys.argv[1], resume=True)
        said = [str(w.message) for w in caught]
        print(json.dumps([time.monotonic(), model.outcome, model.message, said, model.storage.flat.tolist()]))
    """
    whole = small("lstm").fit(TEXT, **QUICK)
    outcome, interruptions = None, 0
    for delay in (0.03, 0.3, 0.1, 0.25, 30):
        with python("import warnings\n" + textwrap.dedent(code), tmp_path / "c") as process:
            assert process.stdout.readline() == "go\n", process.stderr.read()
            try:
                process.wait(delay)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGINT)
            asked = time.monotonic()
            output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        finished, outcome, message, caught, flat = json.loads(output)
        position = storage.load(tmp_path / "c", kind="checkpoint")[1]["position"]
        if outcome == "finished":
            break
        interruptions += 1
        assert finished - asked < 0.5
        assert (outcome, message) == ("interrupted", f"training was interrupted after {position['update']} updates")
        assert caught == [message]
        kept = storage.load(tmp_path / "c", kind="checkpoint")[0]["best" if position["evaluated"] else "parameters"]
        assert_array_equal(np.array(flat, "float32"), kept)
        assert_array_equal(LanguageModel.load(tmp_path / "c").storage.flat, kept)
    assert outcome == "finished"
    assert interruptions >= 2
    assert_array_equal(np.array(flat, "float32"), parameters(whole))


def test_ctrl_c_waits_until_nothing_is_half_done():
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with Interrupts() as interrupts:
            signal.raise_signal(signal.SIGINT)  # inside a critical section: recorded
            with pytest.raises(KeyboardInterrupt), interrupts.allowed():
                pytest.fail("the interrupt was lost")
        with Interrupts() as interrupts, pytest.raises(KeyboardInterrupt), interrupts.allowed():
            signal.raise_signal(signal.SIGINT)  # outside: at once
            pytest.fail("the interrupt came too late")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell does for background processes: unchanged
        with Interrupts():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def interrupted_at(moment):
    """Enter and leave the window of Ctrl-C, with a signal before instruction number `moment`.

    Returns the Interrupts, and whether there were so many instructions.
    """
    left = [moment]

    def trace(frame, event, _):
        frame.f_trace_opcodes = True
        if event == "opcode":
            left[0] -= 1
            if left[0] == 0:
                signal.raise_signal(signal.SIGINT)
        return trace

    with Interrupts() as interrupts:
        tracing = sys.gettrace()
        sys.settrace(trace)
        try:
            with interrupts.allowed():
                pass
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(tracing)
        return interrupts, left[0] <= 0


def test_ctrl_c_at_any_instruction_closes_the_window_and_is_not_lost():
    before, moment, reached = signal.getsignal(signal.SIGINT), 0, True
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        while reached:
            moment += 1
            interrupts, reached = interrupted_at(moment)
            assert not interrupts._open, f"a second Ctrl-C would interrupt what follows (instruction {moment})"
            assert interrupts.pending == reached, f"instruction {moment}"
    finally:
        signal.signal(signal.SIGINT, before)
    assert moment > 15  # of `allowed` and its context manager


@pytest.mark.parametrize("sick", [30.0, math.nan, math.inf])
def test_a_loss_that_explodes_stops_the_training_and_keeps_the_best(sick, tmp_path):
    model, healthy = small(), small().fit(TEXT, **QUICK | {"epochs": 2})
    real, count = model.loss_and_gradient, []

    def falls_ill(*arguments, **options):
        loss, state = real(*arguments, **options)
        count.append(1)
        return (sick if len(count) == 2 * EPOCH + 12 else loss), state

    model.loss_and_gradient = falls_ill
    with pytest.warns(RuntimeWarning) as caught:
        model.fit(TEXT, **QUICK, checkpoint=tmp_path)
    first = json.loads((tmp_path / "checkpoint.json").read_text())["config"]["position"]["first_loss"]
    assert model.outcome == "diverged"
    over = "" if not math.isfinite(sick) else f", over 3 times its first value {first:.4g}"
    assert model.message == (
        f"the loss is {sick:.4g} at update {2 * EPOCH + 12}{over}: training stopped; "
        f"the parameters kept are the best, of update {2 * EPOCH}; a lower lr than 0.01 may help"
    )
    assert str(caught[0].message) == model.message
    assert_array_equal(parameters(model), parameters(healthy))
    assert_array_equal(parameters(LanguageModel.load(tmp_path)), parameters(healthy))


def test_a_gradient_that_is_not_finite_stops_the_training():
    model = small()
    real = model.loss_and_gradient

    def overflows(*arguments, into, **options):
        result = real(*arguments, into=into, **options)
        into[3] = np.inf
        return result

    model.loss_and_gradient = overflows
    with pytest.warns(
        RuntimeWarning,
        match="1 of .* values of the gradient are not finite at update 1, .*: "
        "training stopped; the parameters kept are those from before",
    ):
        model.fit(TEXT, **QUICK)
    assert np.isfinite(parameters(model)).all()


def test_early_stopping_keeps_the_best_of_the_held_out_part(tmp_path):
    options = QUICK | {"epochs": 60, "lr": 0.03, "patience": 4, "checkpoint": tmp_path}
    model = small(hidden_size=32, dropout=0).fit(TEXT[:1500], **options)
    losses = [entry["validation_loss"] for entry in model.history]
    assert model.outcome == "stopped early"
    assert len(losses) < 60
    assert int(np.argmin(losses)) == len(losses) - 1 - 4
    held_out = Streams(model.vocabulary.encode(TEXT[:1500][-150:]), 5, 17)
    assert model.evaluate(held_out)["loss"] == min(losses)
    again = small(hidden_size=32, dropout=0).fit(TEXT[:1500], **options, resume=True)  # nothing is left to do
    assert again.outcome == "stopped early"
    assert again.history == model.history
    assert_array_equal(parameters(again), parameters(model))


def test_history_and_learning_rates():
    model = small().fit(TEXT, **QUICK, schedule=optim.StepDecay(0.5, after=2), evaluate_every=20)
    epochs = [entry["epoch"] for entry in model.history]
    first = np.array([20, 40, EPOCH]) / EPOCH
    assert_allclose(epochs, [0, *first, *1 + first, *2 + first], atol=1e-4)
    assert [entry["lr"] for entry in model.history] == [0.01] * 7 + [0.005] * 3
    assert model.history[0]["train_loss"] is None
    assert abs(model.history[0]["validation_loss"] - math.log(len(set(TEXT)))) < 0.3
    assert model.history[-1]["validation_loss"] < model.history[0]["validation_loss"] - 1
    assert model.speed > 0


def test_training_learns_what_there_is_to_learn():
    """After "a" comes "b" or "c" with probability 1/2, then "a": the minimum is ln(2)/2 nats per character."""
    coins = np.random.default_rng(0).integers(0, 2, 6000)
    text = "".join("ac" if coin else "ab" for coin in coins)
    model = LanguageModel("gru", 16, seed=0).fit(text, epochs=6, batch_size=16, seq_len=25, lr=0.01, verbose=False)
    assert abs(-model.score(text) - math.log(2) / 2) < 0.01
    assert abs(model.perplexity(text) - math.sqrt(2)) < 0.02
    written = model.generate("a", length=400, seed=1)
    assert set(written[1::2]) == {"a"}
    assert 60 < written.count("b") < 140


# ---- streams ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n, B, T", [(11, 2, 3), (100, 7, 5), (101, 10, 10), (6, 1, 5), (300, 4, 20)])
def test_streams_hold_every_symbol_and_its_successor_once(n, B, T):
    streams = Streams(np.arange(n), B, T)
    L = (n - 1) // B
    x = np.concatenate([x for x, *_ in streams])
    targets = np.concatenate([targets for _, targets, *_ in streams])
    assert_array_equal(x.T.ravel(), np.arange(L * B))
    assert_array_equal(targets, x + 1)
    assert streams.steps == L * B == x.size
    assert all(x.shape == (T, B) for x, *_ in list(streams)[:-1])
    assert x.dtype == np.int64


def test_score_is_the_likelihood_of_the_text_step_by_step():
    model = small("lstm", dtype="float64").fit(TEXT, **QUICK | {"epochs": 1})
    text = TEXT[100:1300]  # more than one window
    ids = model.vocabulary.encode(text)
    stream, nll = model.rnn.stream(), 0.0
    for now, then in zip(ids, ids[1:]):
        logits = model.linear(stream.step(model.embedding(np.array([now]))))[0]
        nll += np.log(np.exp(logits - logits[then]).sum())
    assert_allclose(model.score(text), -nll / (len(ids) - 1), rtol=1e-12)
    assert model.perplexity(text) == math.exp(-model.score(text))


def test_training_releases_its_memory():
    """Tapes return to the pool: the number in use after an update does not grow."""
    import tracemalloc

    model = small(hidden_size=64)
    real, sizes = model.loss_and_gradient, []

    def measured(*arguments, **options):
        sizes.append(tracemalloc.get_traced_memory()[0])
        return real(*arguments, **options)

    model.loss_and_gradient = measured
    tracemalloc.start()
    try:
        model.fit(TEXT, **QUICK)
    finally:
        tracemalloc.stop()
    assert max(sizes[-40:]) - sizes[20] < 100_000


# ---- generation ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted():
    return LanguageModel("lstm", 24, 2, seed=0).fit(TEXT, **QUICK | {"epochs": 4})


def test_generated_text_comes_from_its_seed_and_as_it_is_written(fitted):
    text = fitted.generate("12 squared", length=60, seed=5)
    assert len(text) == 60
    assert text == fitted.generate("12 squared", length=60, seed=5) != fitted.generate("12 squared", length=60, seed=6)
    characters = fitted.generate_iter("12 squared", length=60, seed=5)
    assert [next(characters) for _ in range(20)] == list(text[:20])
    assert fitted.generate("12", length=0) == ""
    assert len(fitted.generate(length=7)) == 7


def test_greedy_writing_takes_the_most_likely_character(fitted):
    prompt, want = "3 squared is ", ""
    for _ in range(20):
        y, _ = fitted.rnn(fitted.vocabulary.encode(prompt + want)[:, None], embedding=fitted.embedding)
        want += fitted.vocabulary.symbols[int(fitted.linear(y[-1])[0].argmax())]
    assert fitted.generate(prompt, length=20, temperature=0) == want
    assert fitted.generate(prompt, length=20, temperature=5, top_k=1, seed=1) == want
    assert fitted.generate(prompt, length=20, temperature=1, top_p=1e-9, seed=1) == want


def test_the_sampler_draws_with_the_right_frequencies():
    p = np.array([0.5, 0.05, 0.3, 0.15])

    def frequencies(**options):
        draw = Sampler(seed=0, **options)
        return np.bincount([draw(np.log(p)) for _ in range(4000)], minlength=4) / 4000

    assert_allclose(frequencies(), p, atol=0.03)
    assert_allclose(frequencies(temperature=0.5), p**2 / (p**2).sum(), atol=0.03)
    assert_allclose(frequencies(top_k=2), [0.5 / 0.8, 0, 0.3 / 0.8, 0], atol=0.03)
    assert_allclose(frequencies(top_p=0.81), [0.5 / 0.95, 0, 0.3 / 0.95, 0.15 / 0.95], atol=0.03)
    assert_allclose(frequencies(top_p=0.79), [0.5 / 0.8, 0, 0.3 / 0.8, 0], atol=0.03)
    assert_allclose(frequencies(top_k=3, top_p=0.4), [1, 0, 0, 0], atol=0)
    assert_allclose(frequencies(temperature=1e-9), [1, 0, 0, 0], atol=0)


# ---- files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_saved_model_is_the_same_model(cell, dtype, tmp_path):
    model = small(cell, dtype=dtype, embedding_size=7).fit(TEXT + "é\U0001f600", **QUICK | {"epochs": 1})
    model.save(tmp_path / "m")
    again = LanguageModel.load(tmp_path / "m")
    assert_array_equal(parameters(again), parameters(model))
    assert again.score(TEXT) == model.score(TEXT)
    assert again.generate("1", seed=0) == model.generate("1", seed=0)
    assert again.history == model.history
    assert repr(again) == repr(model)
    model.save(str(tmp_path / "m"))
    assert len(list((tmp_path / "m").iterdir())) == 2


def test_a_fit_that_cannot_begin_changes_nothing(fitted, tmp_path):
    before = parameters(fitted), fitted.history, fitted.vocabulary
    for text, options in [
        ("", {}),
        (TEXT, {"lr": -1}),
        (TEXT, {"checkpoint": Path(__file__).parent, "resume": True}),
        (TEXT[:50], {}),
    ]:
        with pytest.raises(ValueError):
            fitted.fit(text, **QUICK | options)
    other = small().fit(TEXT, **QUICK | {"epochs": 1}, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="was made with"):
        fitted.fit(TEXT, **QUICK, checkpoint=tmp_path, resume=True)
    assert_array_equal(parameters(fitted), before[0])
    assert fitted.history is before[1]
    assert fitted.vocabulary is before[2]
    assert_array_equal(parameters(LanguageModel.load(tmp_path)), parameters(other))


def test_text_is_a_str_and_a_file_is_a_path(tmp_path):
    path = tmp_path / "t.txt"
    path.write_bytes("\ufeffzwölf\r\nBäume\n".encode())
    assert read_text(path) == "zwölf\nBäume\n"
    assert read_text("zwölf") == "zwölf"
    assert_array_equal(Vocabulary.of("ba\U0001f600").encode("\U0001f600ab"), [2, 0, 1])
    assert Vocabulary("ab").decode([1, 0]) == "ba"


# ---- messages -----------------------------------------------------------------------------------------------------


def fit(text=TEXT, **options):
    return lambda folder: small().fit(text(folder) if callable(text) else text, **QUICK | options)


def file(content):
    def make(folder):
        (folder / "t.txt").write_bytes(content)
        return folder / "t.txt"

    return make


def resumed(**options):
    """Resume in a directory that has a checkpoint, with a different setting."""

    def call(folder):
        small().fit(TEXT, **QUICK | {"epochs": 0}, checkpoint=folder)
        model = small(**options.pop("model", {}))
        model.fit(options.pop("text", TEXT), **QUICK | options, checkpoint=folder, resume=True)

    return call


BAD = [
    (lambda _: LanguageModel("LSTM"), ValueError, "cell is 'LSTM', but it must be one of 'lstm', 'gru', 'rnn'"),
    (lambda _: LanguageModel(hidden_size=0), ValueError, "hidden_size is 0, but it must be at least 1"),
    (
        lambda _: LanguageModel(dropout=1),
        ValueError,
        "dropout is 1, but it must be a number from 0 up to, but not including, 1",
    ),
    (
        lambda _: LanguageModel(dtype="int8"),
        TypeError,
        "dtype is 'int8', but it must be 'float32' or 'float64'",
    ),
    (
        lambda _: LanguageModel(level="letter"),
        ValueError,
        "level is 'letter', but it must be one of 'character', 'word', 'byte'",
    ),
    (lambda _: LanguageModel(min_count=3), ValueError, "min_count=3 is for words, but level is 'character'"),
    (
        lambda _: LanguageModel(level="byte", max_vocabulary=9),
        ValueError,
        "max_vocabulary=9 is for words, but level is 'byte'",
    ),
    (
        lambda _: LanguageModel(level="word", max_vocabulary=1),
        ValueError,
        "max_vocabulary is 1, but it must be at least 2",
    ),
    (
        lambda _: LanguageModel(hidden_size=128, embedding_size=64, tied=True),
        ValueError,
        "tied=True needs embedding_size and hidden_size to be the same, but they are 64 and 128",
    ),
    (lambda _: LanguageModel(label_smoothing=2), ValueError, "label_smoothing is 2, but it must be <= 1"),
    (fit(pretrained={"a": [1]}), ValueError, "pretrained vectors are for words, but level is 'character'"),
    (lambda _: LanguageModel(seed=-1), ValueError, "seed is -1, but it must be at least 0"),
    (fit(""), ValueError, "the text is empty"),
    (fit(file(b"")), ValueError, "the file {folder}/t.txt is empty"),
    (
        fit(file(b"caf\xe9 au lait")),
        ValueError,
        "the file {folder}/t.txt is not UTF-8: byte 3 is 0xe9, on line 1: give its encoding, such as latin-1 or cp1252",
    ),
    (
        fit(lambda folder: str(file(b"x")(folder))),
        ValueError,
        "the text is '{folder}/t.txt', the name of an existing file: to read that, give pathlib.Path('{folder}/t.txt')",
    ),
    (
        fit(b"bytes"),
        TypeError,
        "the text is 'bytes', but it must be a str (the text itself) or a pathlib.Path (a file)",
    ),
    (fit("abcdefghij" * 9), ValueError, "81 symbols are too few: batch_size=5 streams of seq_len=17 need at least 86"),
    (
        fit("abc" * 50, validation=0.001),
        ValueError,
        "the held-out part has 0 symbols, but it needs at least 2: raise validation, or set it to 0",
    ),
    (fit(epochs=-1), ValueError, "epochs is -1, but it must be at least 0"),
    (fit(epochs=1.5), TypeError, "epochs is 1.5, but it must be a whole number"),
    (fit(batch_size=0), ValueError, "batch_size is 0, but it must be at least 1"),
    (fit(seq_len=0), ValueError, "seq_len is 0, but it must be at least 1"),
    (
        fit(optimizer="adan"),
        ValueError,
        "optimizer is 'adan', but it must be one of 'sgd', 'rmsprop', 'adagrad', 'adam', 'adamw'",
    ),
    (fit(lr=math.nan), ValueError, "lr is nan, but it must be >= 0"),
    (fit(clip_norm=0), ValueError, "clip_norm is 0, but it must be > 0"),
    (fit(clip_value=-2), ValueError, "clip_value is -2, but it must be > 0"),
    (fit(validation=1), ValueError, "validation is 1, but it must be a number from 0 up to, but not including, 1"),
    (fit(patience=0), ValueError, "patience is 0, but it must be at least 1"),
    (fit(patience=2, validation=0), ValueError, "patience=2 needs validation data, but there are none"),
    (fit(schedule="cosine"), TypeError, "schedule is 'cosine', but it must be a fastrnn.optim.Schedule"),
    (fit(resume=True), ValueError, "resume=True needs the directory of the checkpoint, but checkpoint is None"),
    (
        lambda folder: fit(checkpoint=(file(b"x")(folder), folder)[1])(folder),
        ValueError,
        "{folder} is not empty: give resume=True to continue the training there, or another directory",
    ),
    (
        lambda folder: fit(checkpoint=(file(b"x")(folder), folder)[1], resume=True)(folder),
        ValueError,
        "{folder} holds no checkpoint to resume from",
    ),
    (
        resumed(batch_size=6),
        ValueError,
        "the checkpoint in {folder} was made with batch_size=5, but now it is 6: to continue, it must be the same",
    ),
    (
        resumed(lr=0.02),
        ValueError,
        "the checkpoint in {folder} was made with "
        "optimizer='Adam(lr=0.01, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.0)', but now it is "
        "'Adam(lr=0.02, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.0)': to continue, it must be the same",
    ),
    (
        resumed(model={"hidden_size": 13}),
        ValueError,
        "the checkpoint in {folder} was made with hidden_size=12, but now it is 13: to continue, it must be the same",
    ),
    (
        resumed(model={"tied": True}),
        ValueError,
        "the checkpoint in {folder} was made with tied=False, but now it is True: to continue, it must be the same",
    ),
    (
        resumed(model={"seed": 1}),
        ValueError,
        "the checkpoint in {folder} was made with seed=3, but now it is 1: to continue, it must be the same",
    ),
    (
        lambda _: small().generate(),
        RuntimeError,
        "this LanguageModel has not been fitted: call fit(…) or LanguageModel.load(directory)",
    ),
    (lambda folder: LanguageModel.load(folder), FileNotFoundError, "no model in {folder}: config.json is missing"),
    (
        lambda folder: (storage.save(folder, {}, {"model": "Tagger"}), LanguageModel.load(folder)),
        ValueError,
        "{folder} holds a 'Tagger', but this is LanguageModel.load",
    ),
]


@pytest.mark.parametrize(
    "call, error, message", BAD, ids=[f"{k} {message}"[:60] for k, (_, _, message) in enumerate(BAD)]
)
def test_a_wrong_argument_is_named_before_any_work(call, error, message, tmp_path, monkeypatch):
    monkeypatch.setattr(
        LanguageModel,
        "evaluate",
        lambda *_: pytest.fail("work has begun") if "resumed" not in str(call) else {"loss": 1.0},
    )
    with pytest.raises(error) as caught:
        call(tmp_path)
    assert str(caught.value) == message.format(folder=tmp_path)


def test_another_text_cannot_be_resumed(tmp_path):
    with pytest.raises(ValueError, match=r"was made with text='[0-9a-f]{12}', but now it is '[0-9a-f]{12}'"):
        resumed(text=TEXT + "1")(tmp_path)


def test_a_damaged_checkpoint_is_not_resumed(tmp_path):
    small().fit(TEXT, **QUICK | {"epochs": 1}, checkpoint=tmp_path)
    weights = next(tmp_path.glob("checkpoint-*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ValueError, match="is damaged: its sha256 is"):
        small().fit(TEXT, **QUICK, checkpoint=tmp_path, resume=True)


def test_a_checkpoint_of_another_build_gives_a_warning(tmp_path):
    small().fit(TEXT, **QUICK | {"epochs": 1}, checkpoint=tmp_path)
    arrays, config = storage.load(tmp_path, kind="checkpoint")
    config["computed_by"]["isa"] = "v0"
    storage.save(tmp_path, arrays, config, kind="checkpoint")
    with pytest.warns(
        RuntimeWarning, match="the checkpoint was computed by isa v0, .*, now it is .*: the bits may differ"
    ):
        small().fit(TEXT, **QUICK, checkpoint=tmp_path, resume=True)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda m: m.score("7"), "the text has 1 symbol, but a score needs at least 2"),
        (lambda m: m.generate("§"), "the prompt has 1 symbol that this model has not been trained on: '§'"),
        (lambda m: m.generate_iter("§"), "the prompt has 1 symbol that this model has not been trained on: '§'"),
        (lambda m: m.generate(temperature=-1), "temperature is -1, but it must be >= 0"),
        (lambda m: m.generate(top_k=0), "top_k is 0, but it must be at least 1"),
        (lambda m: m.generate(top_p=1.5), "top_p is 1.5, but it must be <= 1"),
        (lambda m: m.generate(length=-1), "length is -1, but it must be at least 0"),
    ],
)
def test_a_wrong_question_is_named(fitted, call, message):
    with pytest.raises(ValueError) as caught:
        call(fitted)
    assert str(caught.value) == message


def test_no_dropout_mask_is_drawn_twice():
    model, keys = small(), []
    real = model.loss_and_gradient

    def recorded(*arguments, rng, **options):
        keys.extend([rng, random_key(rng, 1)])
        return real(*arguments, rng=rng, **options)

    model.loss_and_gradient = recorded
    model.fit(TEXT, **QUICK)
    assert len(set(keys)) == len(keys) == 2 * 3 * EPOCH


# --- the whole model ----------------------------------------------------------


@pytest.mark.parametrize("k1, k2", [(5, 5), (3, 7), (7, 3)])
@pytest.mark.parametrize("options", [
    {}, {"num_layers": 2, "dropout": 0.3, "input_dropout": 0.2, "variational": True},
    {"tied": True, "label_smoothing": 0.1, "dropout": 0.2},
])  # fmt: skip
@pytest.mark.parametrize("cell", CELLS)
def test_gradients_through_the_whole_model(cell, options, k1, k2):
    model = LanguageModel(cell, 6, dtype="float64", seed=1, **options).fit(
        TEXT[:300], epochs=0, batch_size=3, seq_len=5, verbose=False
    )
    window = Streams(model.vocabulary.encode(TEXT[:300]), 3, k1, k2)[3]
    rng = np.random.default_rng(0)
    state = [rng.standard_normal((model.num_layers, 3, 6)) for _ in range(2)]
    if window.skip == 0:
        assert_gradient(model, window, state=tuple(state) if cell == "lstm" else state[0])
        return
    # the skipped part passes no gradient: the window without it, from the state after it, has the same
    state = tuple(state) if cell == "lstm" else state[0]
    gradients = np.zeros((2, model.storage.size))
    after = model.rnn(window.x[: window.skip], state, embedding=model.embedding)[1]
    whole = model.loss_and_gradient(window, state, into=gradients[0], rng=3)[0]
    assert (
        whole
        == model.loss_and_gradient(
            Window(window.x[window.skip :], window.targets, 0, k2), after, into=gradients[1], rng=3
        )[0]
    )
    assert_array_equal(*gradients)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("k1, k2", [(3, 7), (4, 4), (7, 3), (1, 5)])
def test_each_window_begins_with_the_state_where_it_begins(cell, k1, k2, dropout):
    """With fixed parameters, the state carried into a window is that of the whole sequence up to it."""
    model = LanguageModel(cell, 6, 2, dropout=dropout, input_dropout=dropout, dtype="float64", seed=1)
    model.fit(TEXT[:300], epochs=0, verbose=False, batch_size=3, seq_len=5)
    ids, state, at, scratch = model.vocabulary.encode(TEXT[:300]), None, 0, np.zeros(model.storage.size)
    for window in Streams(ids, 3, k1, k2):
        if at and not dropout:
            x = ids[: 99 * 3].reshape(3, 99)[:, :at].T
            for mine, wanted in zip(
                *(s if cell == "lstm" else [s] for s in (state, model.rnn(x, embedding=model.embedding)[1]))
            ):
                assert_array_equal(mine, wanted)
        _, state = model.loss_and_gradient(window, state, into=scratch, rng=1)
        at += window.carry


def test_the_held_out_part_at_the_end_of_every_stream(tmp_path):
    options = dict(epochs=1, batch_size=4, seq_len=10, verbose=False, validation=0.25)
    seen = []
    model = small()
    model.fit(TEXT, **options, held_out="streams", callbacks=[seen.append], checkpoint=tmp_path)
    ids = model.vocabulary.encode(TEXT)
    first, last = Streams(ids, 4, 10).split(0.25)
    assert first.steps + last.steps == (len(TEXT) - 1) // 4 * 4
    assert_array_equal(last[0].x[0], [ids[len(first) * 10 + b * ((len(TEXT) - 1) // 4)] for b in range(4)])
    assert_allclose(seen[-1]["validation_loss"], model.evaluate(last)["loss"], rtol=1e-6)
    with pytest.raises(ValueError, match="made with held_out='streams', but now it is 'end'"):
        small().fit(TEXT, **options, checkpoint=tmp_path, resume=True)
    with pytest.raises(ValueError, match="2 windows cannot be split so that 0.6 of them are held out"):
        Streams(np.arange(49), 2, 12).split(0.6)
