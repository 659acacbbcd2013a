"""Plans give the same bits as the layers that they record, for every model that is recorded."""

import functools
import os
import textwrap

import numpy as np
import processes
import pytest
from fuzz import seeds
from model_cases import CASES, fit_options
from numpy.testing import assert_array_equal

import fastrnn
from fastrnn import _engine, plans
from fastrnn._check import stories as check_stories
from fastrnn._core import recording
from fastrnn._core.recording import Recording, recordable
from fastrnn.batches import Window
from fastrnn.models import (
    EncoderDecoder,
    EventModel,
    Forecaster,
    LanguageModel,
    MemoryNetwork,
    SequenceClassifier,
    SequenceRegressor,
    VectorToSequence,
    labelled,
)
from fastrnn.models.scaling import Unscaled
from fastrnn.models.stories import Questions
from fastrnn.training.plans import ModelPlans

pytestmark = pytest.mark.filterwarnings("ignore:no evaluation found a better:RuntimeWarning")


def rng_of(name, seed):
    return np.random.default_rng([*name.encode(), seed])


RECORDED = [
    *("classifier", "events", "forecaster", "pairs", "regressor", "regressor of steps", "stories", "text", "vectors"),
]


def stories(rng, N):
    """Return stories of different lengths, some of them longer than the memory, with repeated sentences."""
    words = [f"w{k}" for k in range(12)]
    sentences = [[str(w) for w in rng.choice(words, rng.integers(1, 6))] for _ in range(int(rng.integers(1, 40)))]
    X = []
    for _ in range(N):
        story = [sentences[k] for k in rng.integers(0, len(sentences), rng.integers(1, 13))]
        X.append((story, [str(w) for w in rng.choice(words, 2)]))
    return X, [str(answer) for answer in rng.choice(words[:3], N)]


DATA = {name: CASES[name].data for name in RECORDED} | {"stories": stories}


def text_options(rng):
    layers = int(rng.integers(1, 3))
    return LanguageModel, dict(
        cell=str(rng.choice(["lstm", "gru", "rnn"])), hidden_size=int(rng.choice([4, 9])), num_layers=layers,
        dropout=float(rng.choice([0, 0.3])), input_dropout=float(rng.choice([0, 0.2])), tied=bool(rng.integers(2)),
        variational=bool(rng.integers(2)), label_smoothing=float(rng.choice([0, 0.1])),
    )  # fmt: skip


def pooled_options(rng, model):
    pooling = str(rng.choice(["last", "mean", "max"]))
    options = dict(
        cell=str(rng.choice(["lstm", "gru", "rnn"])), hidden_size=int(rng.choice([4, 9])),
        num_layers=int(rng.integers(1, 3)), dropout=float(rng.choice([0, 0.3])), bidirectional=bool(rng.integers(2)),
    )  # fmt: skip
    return model, options | dict(pooling=pooling)


def forecaster_options(rng):
    return functools.partial(Forecaster, 6, 3), dict(
        cell=str(rng.choice(["lstm", "gru", "rnn"])), hidden_size=4, num_layers=int(rng.integers(1, 3)),
        dropout=float(rng.choice([0, 0.3])), quantiles=[None, (0.1, 0.5, 0.9)][rng.integers(2)],
    )  # fmt: skip


def decoding_options(rng, model):
    H, tied = int(rng.choice([4, 9])), bool(rng.integers(2))
    options = dict(
        cell=str(rng.choice(["lstm", "gru", "rnn"])), hidden_size=H, num_layers=int(rng.integers(1, 3)), tied=tied,
        context=str(rng.choice(["initial", "every", "both"])), dropout=float(rng.choice([0, 0.3])),
        min_count=int(rng.choice([1, 5])),
    )  # fmt: skip
    if model is VectorToSequence:
        return model, options | dict(embedding_size=H if tied else 3, standardize=bool(rng.integers(2)))
    more = dict(attention=None, bidirectional=bool(rng.integers(2)), source_embedding=3)
    return model, options | more | dict(target_embedding=H if tied else 3)


def story_options(rng):
    return MemoryNetwork, dict(
        size=int(rng.choice([1, 5, 16])), hops=int(rng.integers(1, 4)), memory=int(rng.choice([3, 10])),
        tying=str(rng.choice(["adjacent", "layerwise"])), position_encoding=bool(rng.integers(2)),
        noise=float(rng.choice([0, 0.1, 1])), temporal_encoding=bool(rng.integers(3)),
        linear_start=int(rng.choice([0, 4])),
    )  # fmt: skip


OPTIONS = {
    "text": text_options,
    "classifier": functools.partial(pooled_options, model=SequenceClassifier),
    "regressor": functools.partial(pooled_options, model=SequenceRegressor),
    "regressor of steps": lambda rng: (SequenceRegressor, dict(per_step=True, hidden_size=int(rng.choice([4, 9])))),
    "events": lambda rng: (EventModel, dict(cell="gru", hidden_size=5, dropout=0.2, input_dropout=0.3)),
    "forecaster": forecaster_options,
    "pairs": functools.partial(decoding_options, model=EncoderDecoder),
    "vectors": functools.partial(decoding_options, model=VectorToSequence),
    "stories": story_options,
}


def trained(monkeypatch, name, options, data, settings, planned):
    """Fit a model; returns its parameters, its history and the plans of the training."""
    make, arguments = options
    kept = []

    class Kept(ModelPlans):
        def __init__(self, model):
            super().__init__(model)
            self.planned = planned and self.planned
            kept.append(self)

        def __call__(self, *arguments, **options):
            for block in self._arena._blocks:
                # NaN and -1, or huge: nothing may be left in the memory from one run to the next
                block[:] = (0xFF, 0x7F)[self.used % 2]
            return super().__call__(*arguments, **options)

    monkeypatch.setattr("fastrnn.training.loop.ModelPlans", Kept)
    model = make(**arguments)
    model.fit(*data, **settings)
    return model.storage.flat, model.history, kept[0]


@pytest.mark.fuzz
@pytest.mark.parametrize("name", RECORDED)
def test_a_plan_gives_the_bits_of_the_layers(monkeypatch, name):
    for seed in seeds("plans", 8):
        rng = rng_of(name, seed)
        options = OPTIONS[name](rng)
        options = options[0], options[1] | dict(seed=seed, dtype=str(rng.choice(["float32", "float64"])))
        data = DATA[name](rng, int(rng.integers(20, 40)))
        settings = fit_options(name, epochs=int(rng.integers(9, 13)), validation=0)
        settings |= dict(clip_norm=float(rng.choice([0.1, 5])), optimizer=str(rng.choice(["adam", "sgd", "adagrad"])))
        settings["accumulate"] = int(rng.choice([1, 1, 2]))
        if name in ("pairs", "vectors"):
            settings["label_smoothing"] = float(rng.choice([0, 0.1]))
            settings |= dict(epochs=18, freeze=[[], ["target_table*"], ["linear*", "decoder*"]][rng.integers(3)])
        found, history, used = trained(monkeypatch, name, options, data, settings, True)
        wanted, wanted_history, _ = trained(monkeypatch, name, options, data, settings, False)
        assert_array_equal(found.view(np.uint8), wanted.view(np.uint8), err_msg=f"case {seed}: {options} {settings}")
        assert history == wanted_history, f"case {seed}: {options} {settings}"
        assert used.used and not used.refused, f"case {seed}: {options} {settings}: {used.refused}"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("H, seq_len", [(4, 8), (9, 80), (64, 256), (8, 299), (8, 300), (8, 301)])
def test_a_few_ids_of_many_symbols_are_recorded(monkeypatch, H, seq_len, dtype):
    """The number of distinct ids is another one in each window, unless all symbols are in the table of the plan."""
    symbols, rng = [chr(0x4E00 + k) for k in range(300)], np.random.default_rng(0)
    text = "".join(symbols) + "".join(rng.choice(symbols[:60], 9 * seq_len)) + "".join(rng.permutation(symbols * 4))
    text = text[: (len(text) - 1) // seq_len * seq_len + 1]  # whole windows
    settings = dict(batch_size=1, seq_len=seq_len, epochs=1, validation=0, verbose=False)
    options = LanguageModel, dict(cell="rnn", hidden_size=H, seed=0, dtype=dtype)
    found, _, used = trained(monkeypatch, "text", options, (text,), settings, True)
    wanted, *_ = trained(monkeypatch, "text", options, (text,), settings, False)
    assert_array_equal(found, wanted)
    assert used.used and not used.refused


def test_a_computation_outside_of_the_plan_is_noticed(monkeypatch):
    """A model that computes with NumPy between its layers gets no plan, and its results stay right."""
    real = LanguageModel.loss_and_gradient

    def halved(self, batch, state=None, *, into, rng):
        loss, state = real(self, batch, state, into=into, rng=rng)
        into *= 0.5
        return loss, state

    def summed(self, batch, state=None, *, into, rng):
        loss, state = real(self, batch, state, into=into, rng=rng)
        return loss + 1.0, state

    def constant(self, batch, state=None, *, into, rng):
        return real(self, batch, state, into=into, rng=7)

    data = CASES["text"].data(np.random.default_rng(0), 30)
    settings = fit_options("text", epochs=8, validation=0)
    options = LanguageModel, dict(cell="gru", hidden_size=4, dropout=0.5, num_layers=2, seed=0)
    for wrong, reason in ((halved, "numpy.multiply"), (summed, "computes with a loss"), (constant, "dropout masks")):
        monkeypatch.setattr(LanguageModel, "loss_and_gradient", recordable(wrong))
        found, _, used = trained(monkeypatch, "text", options, data, settings, True)
        wanted, *_ = trained(monkeypatch, "text", options, data, settings, False)
        assert_array_equal(found, wanted, err_msg=reason)
        assert not used.used and any(reason in why for why in used.refused), (reason, used.refused)


def test_an_id_outside_is_an_error_in_every_run():
    """A plan checks the ids of each batch, as the layers do."""
    model = LanguageModel("gru", 4, seed=0).fit("abcd" * 50, batch_size=4, seq_len=7, epochs=1, verbose=False)
    used, into = ModelPlans(model), np.zeros_like(model.storage.flat)
    state = np.zeros((1, 4, 4), "float32")

    def batch(symbol):
        ids = np.zeros((7, 4), np.int64)
        ids[3, 2] = symbol
        return Window(ids, np.zeros((7, 4), np.int64), 0, 7)

    for symbol in (1, 2, 3, 0, 1, 2):
        used(batch(symbol), state, into=into, rng=1)
    assert used.used
    for symbol in (4, -1, 10**12):
        with pytest.raises(ValueError, match="the embedding has rows 0 to 3"):  # as the layers say it
            used(batch(symbol), state, into=into, rng=1)


@pytest.mark.parametrize(
    "name, value", [("which", -1), ("which", 99), ("sentence", 10**12), ("first", -1), ("count", 99)]
)
def test_a_sentence_outside_is_an_error_in_every_run(name, value):
    X, y = stories(np.random.default_rng(0), 6)
    model = MemoryNetwork(4, noise=0, seed=0).fit(X, y, epochs=0, verbose=False)
    used, into = ModelPlans(model), np.zeros_like(model.storage.flat)
    [batch] = Questions(model, check_stories.stories(X)[0], y, 6, None)
    for _ in range(6):
        used(batch, into=into, rng=1)
    assert used.used
    wrong = getattr(batch, name).copy()
    wrong[0] = value
    with pytest.raises(IndexError):
        used(batch._replace(**{name: wrong}), into=into, rng=1)


def test_batches_of_different_sizes_share_a_plan():
    X, y = stories(np.random.default_rng(0), 64)
    model = MemoryNetwork(4, seed=0).fit(X, y, epochs=0, verbose=False)
    used, into, sizes = ModelPlans(model), np.zeros_like(model.storage.flat), set()
    batches = Questions(model, *check_stories.stories(X, y), 16, 0)
    for epoch in range(9):
        batches.begin(epoch)
        for batch in batches:
            used(batch, into=into, rng=epoch)
            sizes.add((int(batch.size[0]), int(batch.distinct[0])))
    assert len(used._plans) <= 2 < 20 < len(sizes) and used.used and not used.refused


def test_plans_of_all_shapes_share_their_memory(monkeypatch):
    """All together need as much as the largest, in any order: the limit refuses none of them."""
    model = LanguageModel("gru", 8, seed=0).fit("abcd" * 50, batch_size=4, seq_len=7, epochs=1, verbose=False)
    into, rng = np.zeros_like(model.storage.flat), np.random.default_rng(0)

    def memory(*shapes):
        used, sizes = ModelPlans(model), []
        for steps in shapes:
            for _ in range(6):
                ids = rng.integers(0, 4, (steps, 4))
                used(Window(ids, ids, 0, steps), np.zeros((1, 4, 8), "float32"), into=into, rng=1)
            sizes.append(used.memory)
        assert used.used == len(shapes) and not used.refused
        return sizes

    [most] = memory(900)
    assert most > 1 << 19
    monkeypatch.setattr(recording, "MOST_BYTES", most)
    assert memory(900, 100, 50, 899) == [most] * 4
    assert memory(50, 100, *range(500, 1000, 100))[-1] == most


def test_a_plan_that_becomes_wrong_is_an_error(monkeypatch):
    """A plan is compared with the layers again after 4, 8, … runs: what depends on more than shapes is noticed."""
    model = LanguageModel("gru", 4, seed=0).fit("abcd" * 50, batch_size=4, seq_len=7, epochs=1, verbose=False)
    into, real, calls = np.zeros_like(model.storage.flat), model.loss_and_gradient, []

    def changing(batch, state, *, into, rng):
        calls.append(1)
        if len(calls) > 10:  # the plan does not know this
            state = np.ones_like(state)
        return real(batch, state, into=into, rng=rng)

    model.loss_and_gradient = recordable(changing)
    used = ModelPlans(model)
    ids = np.zeros((7, 4), np.int64)
    with pytest.raises(RuntimeError, match="after 65 calls, a plan gave other bits"):
        for _ in range(200):
            used(Window(ids, ids, 0, 7), np.zeros((1, 4, 4), "float32"), into=into, rng=1)
    assert used.used == 57


def test_settings_that_a_callback_changes_take_effect(monkeypatch):
    """A plan has the settings of its recording as constants; it is recorded again if a callback changes them."""

    def changed(planned):
        model = LanguageModel("gru", 4, dropout=0.5, num_layers=2, label_smoothing=0.2, seed=0)
        monkeypatch.setattr(LanguageModel.loss_and_gradient, "recordable", planned)

        def callback(entry):
            if entry["epoch"] == 5:
                model.label_smoothing, model.output_dropout.p = 0.0, 0.1

        return model.fit(data, callbacks=[callback], **fit_options("text", epochs=10, validation=0)).storage.flat

    [data] = CASES["text"].data(np.random.default_rng(0), 30)
    assert_array_equal(changed(True), changed(False))


def test_every_change_of_a_setting_drops_the_plans():
    model = LanguageModel("gru", 4, dropout=0.5, seed=0).fit(
        "abcd" * 50, batch_size=4, seq_len=7, epochs=1, verbose=False
    )
    used, dropped = ModelPlans(model), []

    def changes():
        model.rnn.extra = "new"
        yield
        del model.rnn.extra
        yield
        model.rnn.first = 1
        yield
        del model.rnn.first
        model.rnn.other = 1  # as many attributes as before
        yield
        model.label_smoothing = 0.25
        yield
        model.output_dropout = fastrnn.Dropout(0.125)
        yield
        model.output_dropout.p = 0.25

    used._plans["a shape"] = "seen"
    for _ in changes():
        used.forget_if_changed()
        dropped.append(not used._plans)
        used._plans["a shape"] = "seen"
    used.forget_if_changed()
    assert dropped == [True] * 6 and not used._plans
    used._plans["a shape"] = "seen"
    model.label_smoothing = float("0.25")  # another object of the same value
    model.output_dropout._private = model.history = []
    with model.storage.updating():
        used.forget_if_changed()
    assert used._plans


def test_too_many_shapes_end_the_recording():
    model = LanguageModel("gru", 4, seed=0).fit("abcd" * 50, batch_size=4, seq_len=7, epochs=1, verbose=False)
    used, into, state = ModelPlans(model), np.zeros_like(model.storage.flat), np.zeros((1, 4, 4), "float32")

    def compute(shapes):
        for steps in shapes:
            ids = np.zeros((steps, 4), np.int64)
            used(Window(ids, ids, 0, steps), state, into=into, rng=1)

    compute([*range(1, plans._KEPT + 1)] * 12)
    assert used.used == 5 * plans._KEPT and used.planned
    for _ in range(3):  # two of each shape: they are recorded, and soon dropped
        compute(np.repeat(np.arange(200, 400), 2))
    assert not used.planned and used.memory == 0


def test_ctrl_c_while_a_plan_is_recorded_ends_the_recording():
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _engine.record(None, interrupted)
    assert _engine.recording() is None
    with pytest.raises(_engine.NotRecordable, match="recording already"):
        _engine.record(1, _engine.record, 2, interrupted)
    assert _engine.recording() is None


@pytest.mark.parametrize("copying", [
    lambda a: fastrnn.Linear(3, 2).vjp(a[:, ::-1]),
    lambda a: fastrnn.GRU(3, 2, batch_first=True).vjp(np.stack([a, a])),
    lambda a: fastrnn.GRU(3, 2).vjp(a[:, None], resets=np.ones((4, 1), bool), lengths=np.array([4])),
    lambda a: fastrnn.GRU(3, 2).vjp(a[:, None], mask=np.arange(4)[:, None] > 1),
    lambda a: fastrnn.GRU(3, 2).vjp(a[:, None], return_states=True),
    lambda a: fastrnn.Stacked([fastrnn.GRU(3, 3), fastrnn.GRU(3, 3)], residual=True).vjp(a[:, None]),
    lambda a: fastrnn.losses.mean_squared_error.vjp(a, a, weights=np.ones(4, "float32")),
])  # fmt: skip
def test_what_a_plan_cannot_repeat_is_refused(copying):
    with pytest.raises(_engine.NotRecordable):
        Recording().run(copying, np.ones((4, 3), "float32"))


@pytest.mark.parametrize("pooling", ["last", "mean", "max"])
def test_a_single_unit_and_a_single_row(pooling):
    rng = np.random.default_rng(0)
    X = [rng.standard_normal((5, 3)) for _ in range(7)]
    model = SequenceRegressor("gru", 1, pooling=pooling, seed=0)
    assert model.fit(X, np.arange(7.0), batch_size=1, epochs=2, verbose=False).outcome == "finished"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_the_child_of_a_fork_does_not_record():
    code = """
        import os, threading
        from fastrnn import _engine

        inside, done = threading.Event(), threading.Event()
        thread = threading.Thread(target=_engine.record, args=(1, lambda: (inside.set(), done.wait())))
        thread.start()
        inside.wait()
        child = os.fork()
        if child == 0:
            found = []
            for _ in range(3):  # one of them may get the number of the thread that recorded
                one = threading.Thread(target=lambda: found.append(_engine.recording()))
                one.start()
                one.join()
            os._exit(found != [None, None, None])
        done.set()
        print(os.waitpid(child, 0)[1])
    """
    assert processes.output(textwrap.dedent(code)).strip() == "0"


@pytest.mark.parametrize("bytes_too_few", [0, 1])
def test_a_large_update_is_not_recorded(monkeypatch, bytes_too_few):
    """A plan would need much memory then, and save little time."""
    model = LanguageModel("gru", 8, seed=0).fit("abcd" * 50, batch_size=4, seq_len=7, epochs=1, verbose=False)
    into, state, ids = np.zeros_like(model.storage.flat), np.zeros((1, 4, 8), "float32"), np.zeros((7000, 4), np.int64)

    def computed():
        used = ModelPlans(model)
        for _ in range(6):
            used(Window(ids, ids, 0, 7000), state, into=into, rng=1)
        return used

    needed = computed().memory
    assert needed > 1 << 20
    monkeypatch.setattr(recording, "MOST_BYTES", needed - bytes_too_few)
    used = computed()
    assert (used.used, used.memory) == ((0, 0) if bytes_too_few else (1, needed))
    assert bool(used.refused) == bool(bytes_too_few)


def test_training_data_scaled_once_or_in_each_batch_give_the_same_bits(monkeypatch):
    """Larger data are scaled batch by batch. Only the padding, which nothing reads, differs."""
    X, y = CASES["classifier"].data(np.random.default_rng(0), 20)
    values = sum(x.size for x in X)
    found = []
    for limit in (values, values - 1):
        monkeypatch.setattr(labelled, "_SCALED_ONCE", limit)
        batches = labelled.Labelled(X, np.zeros(20, np.int64), np.ones(20), Unscaled(), 6, None, 1, dtype=np.float32)
        assert (batches._scaled is None) == (limit < values)
        model = SequenceClassifier("gru", 4, bidirectional=True, dropout=0.3, seed=0)
        found.append(model.fit(X, y, **fit_options("classifier", validation=0)).storage.flat)
    assert_array_equal(found[0], found[1])


def test_dropout_of_no_features_is_empty():
    x = np.zeros((2, 1, 0), "float32")
    y, backward = fastrnn.Dropout(0.5).vjp(x, rng=1)
    assert y.shape == backward(x).x.shape == x.shape
