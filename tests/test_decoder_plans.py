"""Plans of models that write sequences: the bits of the layers, for targets of other lengths in each batch."""

import itertools

import numpy as np
import pytest
from fuzz import seeds
from numpy.testing import assert_array_equal

import fastrnn
from fastrnn import _engine, losses
from fastrnn.batches.sequences import Ragged
from fastrnn.models import EncoderDecoder, VectorToSequence
from fastrnn.models.pairs import Pair
from fastrnn.training.plans import ModelPlans

CALLS = 9  # enough for a plan to be used alone


def rng_of(name, seed):
    return np.random.default_rng([*name.encode(), seed])


def fitted(rng, seed, symbols, **fixed):
    """A model of either kind, of random sizes and options, with this many target symbols."""
    H, tied = int(rng.choice([1, 4, 9, 17])), bool(rng.integers(2))
    options = dict(
        cell=str(rng.choice(["lstm", "gru", "rnn"])), hidden_size=H, num_layers=int(rng.integers(1, 4)), tied=tied,
        context=str(rng.choice(["initial", "every", "both"])), dropout=float(rng.choice([0, 0.3])), seed=seed,
        dtype=str(rng.choice(["float32", "float64"])), min_count=int(rng.choice([1, 2])),
    )  # fmt: skip
    size, y = H if tied else int(rng.choice([3, 8])), [[f"s{k}" for k in range(symbols)]] * 2
    if rng.integers(2):
        made, X = VectorToSequence(**options | {"embedding_size": size} | fixed), rng.standard_normal((2, 5))
    else:
        more = dict(bidirectional=bool(rng.integers(2)), attention=None, source_embedding=int(rng.choice([2, 6])))
        made = EncoderDecoder(**options | more | {"target_embedding": size} | fixed)
        X = [[f"x{k}" for k in range(rng.choice([2, 12, 40]))]] * 2
    learning = dict(label_smoothing=float(rng.choice([0, 0.1])), optimizer="sgd", lr=0.01)
    return made.fit(X, y, epochs=1, verbose=False, **learning)


def lengths_of(rng, T, B):
    """Lengths of the sequences of a batch: any, all the same, or all but one very short."""
    found = rng.integers(1, T + 1, B)
    kind = rng.integers(4)
    if kind < 2:
        found[:] = T if kind else 1
        found[rng.integers(B)] = T
    return found


def pair(rng, model, S, T, B, whole):
    """A batch of random ids; some targets within a sequence are ignored."""
    V, lengths = len(model.vocabulary), np.full(B, T) if whole else lengths_of(rng, T, B)
    targets = rng.integers(0, V if rng.integers(2) else min(V, 2), (T, B))
    inputs = np.roll(targets, 1, axis=0)
    inputs[0] = model.vocabulary.start
    targets[(np.arange(T)[:, None] >= lengths) | (rng.random((T, B)) < rng.choice([0, 0.1]))] = -1
    if isinstance(model, VectorToSequence):
        source = rng.standard_normal((B, 5)).astype(model.dtype)
    else:
        source = Ragged(np.arange(B), rng.integers(0, len(model.source_vocabulary), (S, B)), lengths_of(rng, S, B))
    return Pair(np.arange(B), source, inputs, targets, lengths)


class Poisoned(ModelPlans):
    """Nothing may be left in the memory from one run to the next: it has NaN and -1, or huge numbers and ids."""

    def __call__(self, *arguments, **options):
        for block in self._arena._blocks:
            block[:] = (0xFF, 0x7F)[self.used % 2]
        return super().__call__(*arguments, **options)


@pytest.mark.fuzz
@pytest.mark.parametrize("logits_bytes", [1, losses.linear._LOGITS_BYTES])
def test_a_plan_gives_the_bits_of_the_layers(monkeypatch, logits_bytes):
    """The numbers of symbols are on both sides of those of ids: then all rows of a table are used, or some."""
    monkeypatch.setattr(losses.linear, "_LOGITS_BYTES", logits_bytes)  # 1: chunks of 64 rows
    for seed in seeds("decoder plans", 30):
        rng = rng_of("decoder plans", seed)
        model = fitted(rng, seed, int(rng.choice([2, 12, 12, 60])))
        S, T, B = (int(rng.integers(1, n)) for n in (9, 10, 15))
        used, into = Poisoned(model), np.zeros_like(model.storage.flat)
        wanted = into.copy()
        for k in range(CALLS + 6):
            batch = pair(rng, model, S, T, B, whole=rng.integers(4) == 0)
            found = used(batch, None, into=into, rng=k)
            same = model.loss_and_gradient(batch, into=wanted, rng=k)
            assert found == same, f"case {seed}, call {k}"
            assert_array_equal(into.view(np.uint8), wanted.view(np.uint8), err_msg=f"case {seed}, call {k}")
            with model.storage.updating() as flat:
                flat -= 0.01 * into
        assert used.used >= 6 and not used.refused, f"case {seed}: {used.refused}"


@pytest.mark.parametrize("ids", [11, 12, 13, 14])
def test_the_whole_table_or_some_rows(ids):
    """13 rows, with <s>: the number of ids in a batch decides in each run."""
    rng = np.random.default_rng(0)
    model = VectorToSequence("gru", 4, tied=True, embedding_size=4, seed=0)
    model.fit(rng.standard_normal((2, 5)), [[f"s{k}" for k in range(11)]] * 2, epochs=1, verbose=False)
    assert model.target_table.num_embeddings == 13
    used, T, B = Poisoned(model), 7, 2
    into = np.zeros_like(model.storage.flat)
    wanted = into.copy()
    for k in range(CALLS):
        batch = pair(rng, model, 0, T, B, whole=True)
        batch.lengths = np.array([7, (1, 7)[k % 2] if k < 5 else ids - 7])
        assert used(batch, None, into=into, rng=k) == model.loss_and_gradient(batch, into=wanted, rng=k)
        assert_array_equal(into.view(np.uint8), wanted.view(np.uint8))
    assert used.used >= 3 and not used.refused


def test_a_batch_without_targets():
    """All targets are symbols that the model does not know."""
    rng, model = np.random.default_rng(0), None
    model = fitted(rng, 0, 12)
    used, into = Poisoned(model), np.zeros_like(model.storage.flat)
    wanted = into.copy()
    for k in range(CALLS):
        batch = pair(rng, model, 3, 4, 5, whole=False)
        if k % 2:
            batch.targets[:] = -1
        assert used(batch, None, into=into, rng=k) == model.loss_and_gradient(batch, into=wanted, rng=k)
        assert_array_equal(into.view(np.uint8), wanted.view(np.uint8))
    assert used.used and not used.refused


def test_label_smoothing_reads_only_the_rows_of_a_batch():
    """Other rows have what earlier runs have left there, whose mean may overflow."""
    rng = np.random.default_rng(0)
    model = VectorToSequence("gru", 4, dtype="float64", seed=0)
    model.fit(
        rng.standard_normal((2, 5)), [[f"s{k}" for k in range(200)]] * 2, label_smoothing=0.1, epochs=1, verbose=False
    )
    used, into = Poisoned(model), np.zeros_like(model.storage.flat)
    for k in range(CALLS):
        used(pair(rng, model, 0, 4, 5, whole=False), None, into=into, rng=k)
    assert used.used and not used.refused


@pytest.mark.parametrize("wrong", ["inputs", "targets", "lengths", "source"])
def test_what_is_out_of_range_is_an_error_in_every_run(wrong):
    rng = np.random.default_rng(0)
    model = EncoderDecoder("gru", 4, attention=None, source_embedding=3, target_embedding=3, seed=0)
    model.fit(["abc"], ["abc"], epochs=1, verbose=False)
    used, into = ModelPlans(model), np.zeros_like(model.storage.flat)
    for k in range(CALLS):
        used(pair(rng, model, 3, 4, 5, whole=False), None, into=into, rng=k)
    assert used.used
    for value in (10**12, 99):
        batch = pair(rng, model, 3, 4, 5, whole=False)
        batch.targets[0, 0] = 0
        (batch.source.x if wrong == "source" else getattr(batch, wrong))[..., 0] = value
        with pytest.raises(ValueError, match="go up to|go from|must be from"):
            used(batch, None, into=into, rng=1)


@pytest.mark.parametrize("attention, sampling, reason", [
    ("additive", 0.0, "attention"), ("general", 0.0, "attention"), (None, 0.5, "scheduled sampling"),
])  # fmt: skip
def test_what_is_not_recorded_is_computed_as_before(attention, sampling, reason):
    rng = np.random.default_rng(0)
    model = EncoderDecoder("gru", 4, attention=attention, source_embedding=3, target_embedding=3, seed=0)
    words = ["".join(word) for word in itertools.product("abc", repeat=2)]
    model.fit(words, words, epochs=1, verbose=False)
    used, into = ModelPlans(model), np.zeros_like(model.storage.flat)
    wanted = into.copy()
    for k in range(CALLS):
        batch = pair(rng, model, 3, 4, 5, whole=False)
        batch.sampling = sampling
        assert used(batch, None, into=into, rng=k) == model.loss_and_gradient(batch, into=wanted, rng=k)
        assert_array_equal(into, wanted)
    assert not used.used and list(used.refused) == [f"cannot be recorded: {reason}"]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
@pytest.mark.parametrize("N", [0, 1, 64, 65, 200])
def test_softmax_linear_in_a_planned_function(monkeypatch, N, label_smoothing, weighted):
    monkeypatch.setattr(losses.linear, "_LOGITS_BYTES", 1)  # chunks of 64
    rng, linear = np.random.default_rng(0), fastrnn.Linear(3, 11, seed=0)

    def function(x, targets, weights, *, into):
        options = dict(weights=weights if weighted else None, label_smoothing=label_smoothing, into=into)
        return losses.softmax_linear(linear, x, targets, **options)

    made, into = fastrnn.planned(function), np.zeros_like(linear.storage.flat)
    wanted = into.copy()
    for _ in range(CALLS):
        given = rng.standard_normal((N, 3)).astype("float32"), rng.integers(-1, 11, N), rng.random(N)
        loss, dx = made(*given, into=into)
        wanted_loss, wanted_dx = function(*given, into=wanted)
        assert loss == wanted_loss
        assert_array_equal(dx, wanted_dx)
        assert_array_equal(into, wanted)
    assert made.used and not made.refused


def test_batches_are_not_made_in_a_planned_function():
    ids = np.arange(3)
    with pytest.raises(_engine.NotRecordable, match="a batch"):
        _engine.record(1, _engine.padded, ids, np.array([0, 3]), np.array([0]))
