"""EncoderDecoder: gradients of all variants, an independent evaluation, laws of search, bits, files, invalid data."""

import numpy as np
import pair_reference
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from whole_model import assert_gradient

import fastrnn
from fastrnn.layers.feedforward import random_key
from fastrnn.models import EncoderDecoder
from fastrnn.models.pairs import Pairs

X = ["abcab", "b", "cca", "ab", "bbca", "acb", "b", "caab"]
Y = ["xy", "", "zzzyx", "x", "zxxzxx", "yz", "xx", "zy"]
CELLS = ["rnn", "gru", "lstm"]
WIRINGS = {
    # the size of the encoder's state, so that there is no bridge
    "as it is": dict(bidirectional=False, input_feeding=False),
    "bridge": dict(),
    "deeper": dict(decoder_cell="lstm", decoder_layers=2, num_layers=2, dropout=0.3),
    "tied": dict(tied=True, target_embedding=12, dropout=0.3),
}
QUICK = dict(epochs=3, batch_size=3, lr=0.01, verbose=False)


def small(cell="gru", **options):
    options = {"source_embedding": 3, "target_embedding": 4, "attention": None, "seed": 1} | options
    if options["attention"] == "dot" and options.get("bidirectional", True):
        options["decoder_size"] = 12
    if options.get("tied"):
        options["decoder_size"] = 12
    return EncoderDecoder(cell, 6, **options)


def untrained(*arguments, **options):
    """Return a model with values that are far from small, so that nothing is nearly linear."""
    model = small(*arguments, dtype="float64", **options).fit(X, Y, epochs=0, verbose=False)
    with model.storage.updating() as flat:
        flat *= 2
    return model


@pytest.mark.parametrize("context", ["initial", "every", "both"])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("wiring", WIRINGS)
def test_gradients_of_every_variant(wiring, cell, context):
    model = untrained(cell, context=context, **WIRINGS[wiring])
    [batch] = model._batches(X[:4], Y[:4])
    assert_gradient(model, batch, directions=2)


@pytest.mark.parametrize("context", ["initial", "every", "both", None])
@pytest.mark.parametrize(
    "attention, cell, wiring",
    [
        ("additive", "gru", "bridge"),
        ("dot", "lstm", "tied"),
        ("general", "rnn", "as it is"),
        ("additive", "lstm", "deeper"),
        ("dot", "gru", "as it is"),
    ],
)
def test_gradients_through_attention(attention, cell, wiring, context):
    model = untrained(cell, context=context, attention=attention, **WIRINGS[wiring])
    [batch] = model._batches(X[:4], Y[:4])
    assert_gradient(model, batch, directions=2)


def test_label_smoothing_is_in_the_training_loss_only():
    model = untrained(attention="general")
    [batch] = model._batches(X[:4], Y[:4])
    plain, scored = assert_gradient(model, batch, directions=1), model.score(X[:4], Y[:4])
    model._label_smoothing = 0.2
    assert abs(assert_gradient(model, batch, directions=2) - plain) > 1e-3
    assert model.score(X[:4], Y[:4]) == scored
    flats = [small().fit(X, Y, label_smoothing=eps, **QUICK).storage.flat for eps in (0.0, 0.2)]
    assert (flats[0] != flats[1]).any()


@pytest.mark.parametrize("attention", [None, "additive", "dot", "general"])
@pytest.mark.parametrize(
    "cell, context, wiring",
    [("gru", "both", "bridge"), ("lstm", "initial", "as it is"), ("rnn", "every", "deeper"), ("lstm", "both", "tied")],
)
def test_the_loss_is_that_of_an_independent_evaluation(attention, cell, context, wiring):
    model = untrained(cell, context=context, attention=attention, **WIRINGS[wiring])
    ids = [(model.source_vocabulary.encode(x), model.vocabulary.encode(y)) for x, y in zip(X, Y)]
    want = [pair_reference.log_likelihood(model, *pair) for pair in ids]
    assert_allclose(model.log_likelihood(X, Y), want, rtol=1e-10)
    symbols = sum(len(y) + 1 for y in Y)
    assert_allclose(model.score(X, Y), sum(want) / symbols, rtol=1e-10)
    assert_allclose(model.evaluate(model._batches(X, Y, batch_size=3))["loss"], -sum(want) / symbols, rtol=1e-10)
    if not model.dropout:
        [batch] = model._batches(X, Y)
        loss, _ = model.loss_and_gradient(batch, into=np.zeros_like(model.storage.flat), rng=0)
        assert_allclose(loss, -sum(want) / symbols, rtol=1e-10)


@pytest.mark.parametrize("attention", [None, "additive"])
def test_a_pair_does_not_see_the_others_bit_for_bit(attention):
    model = small("gru", attention=attention).fit(X, Y, **QUICK)
    together = model.log_likelihood(X, Y)
    alone = [model.log_likelihood([x], [y])[0] for x, y in zip(X, Y)]
    assert_array_equal(together, alone)


@pytest.mark.parametrize("attention", [None, "general"])
def test_the_same_seed_gives_the_same_bits_on_any_number_of_threads(attention):
    flats = []
    for threads in (1, 2):
        with fastrnn.threads(threads):
            flats.append(
                small("lstm", attention=attention, dropout=0.2).fit(X, Y, label_smoothing=0.1, **QUICK).storage.flat
            )
    assert_array_equal(*flats)


@pytest.mark.parametrize("attention", [None, "additive"])
@pytest.mark.filterwarnings("ignore:no evaluation found a better")
def test_save_and_load_and_resume(attention, tmp_path):
    options = QUICK | dict(validation=0.25, label_smoothing=0.1, scheduled_sampling=lambda epoch: epoch / 4)
    whole = small("lstm", attention=attention).fit(X, Y, **options | {"epochs": 4}, checkpoint=tmp_path / "whole")
    small("lstm", attention=attention).fit(X, Y, **options | {"epochs": 2}, checkpoint=tmp_path / "part")
    resumed = small("lstm", attention=attention).fit(
        X, Y, **options | {"epochs": 4}, checkpoint=tmp_path / "part", resume=True
    )
    assert_array_equal(resumed.storage.flat, whole.storage.flat)
    again = EncoderDecoder.load(tmp_path / "whole")
    assert_array_equal(again.storage.flat, whole.storage.flat)
    assert_array_equal(again.log_likelihood(X, Y), whole.log_likelihood(X, Y))
    assert again.history == whole.history and repr(again) == repr(whole)
    for other in (dict(label_smoothing=0.2), dict(scheduled_sampling=0.5), dict(batch_size=4)):
        with pytest.raises(ValueError, match=f"was made with {next(iter(other))}="):
            small("lstm", attention=attention).fit(X, Y, **options | other, checkpoint=tmp_path / "part", resume=True)
    with pytest.raises(ValueError, match="was made with data="):  # the same ids, with different symbols
        small("lstm", attention=attention).fit(
            [x.upper() for x in X], Y, **options, checkpoint=tmp_path / "part", resume=True
        )


def test_batches_hold_pairs_of_similar_length_and_lose_none():
    model = small().fit(X, Y, epochs=0, verbose=False)
    batches = model._batches(X, Y, batch_size=3)
    assert [(len(X[row]), len(Y[row])) for batch in batches for row in batch.rows] == sorted(
        ((len(x), len(y)) for x, y in zip(X, Y)), key=lambda pair: (-pair[0], -pair[1])
    )
    [batch] = model._batches(X[:3], Y[:3])
    decode = model.vocabulary.decode
    assert batch.source.x.shape == (5, 3) and batch.source.lengths.tolist() == [5, 3, 1]
    assert [decode(row[row >= 0]) for row in batch.targets.T] == [
        ["x", "y", "</s>"],
        ["z", "z", "z", "y", "x", "</s>"],
        ["</s>"],
    ]
    assert (batch.inputs[0] == model.vocabulary.start).all() and decode(batch.inputs[1:3, 0]) == ["x", "y"]
    assert batches.steps == sum(len(y) + 1 for y in Y)


def test_processes_share_the_pairs_of_a_batch():
    model = small().fit(X, Y, epochs=0, verbose=False)
    batches = model._batches(X, Y)
    shares = [batches.share(rank, 2)[0] for rank in range(2)]
    assert sorted(row for batch in shares for row in batch.rows) == list(range(len(X)))
    losses = [
        model.loss_and_gradient(batch, into=np.zeros_like(model.storage.flat), rng=0)[0]
        for batch in (*shares, batches[0])
    ]
    assert_allclose(
        np.average(losses[:2], weights=[batches.weight_of(batch) for batch in shares]), losses[2], rtol=1e-6
    )


def test_max_steps_bounds_sources_and_targets():
    model = small().fit(X, Y, epochs=0, verbose=False)
    sources = [model.source_vocabulary.encode(x) for x in [*X[:-1], "b" * 12]]
    batches = Pairs(sources, [model.vocabulary.encode(y) for y in Y], model.vocabulary, 2, max_steps=12, seed=0)
    sizes = [(batch.inputs.size, batch.source.x.size) for batch in batches]
    assert max(max(pair) for pair in sizes) == 12 and len(sizes) < len(X)
    assert sorted(row for batch in batches for row in batch.rows) == list(range(len(X)))


def test_unknown_symbols():
    model = small().fit(X, Y, epochs=0, verbose=False)
    assert model.vocabulary.symbols == ["</s>", "x", "z", "y"] and repr(model.vocabulary) == "<4 symbols>"
    assert model.source_vocabulary.symbols == ["<unk>", "b", "a", "c"]
    assert model.source_vocabulary.encode("aé").tolist() == [2, 0]  # a source may contain any symbol
    assert np.isfinite(model.log_likelihood(["é"], ["x"])).all()
    with pytest.warns(
        UserWarning, match="y has symbols that this model was not trained on: 'q'; 1 of 3 symbols: without <unk>"
    ):
        found = model.log_likelihood(["a", "a"], ["xq", "x"])
    assert_array_equal(found, [-np.inf, model.log_likelihood(["a"], ["x"])[0]])
    with pytest.warns(UserWarning, match="the held-out part has symbols that are not in the training part: 'q'"):
        small().fit(X, Y, validation=(["a"], ["q"]), **QUICK)
    with_rare = small(min_count=2).fit(X, [*Y[:-1], "q"], epochs=0, verbose=False)
    assert with_rare.vocabulary.symbols[:2] == ["</s>", "<unk>"]
    with pytest.warns(
        UserWarning, match="y has symbols that this model was not trained on: 'q'; 1 of 2 symbols: they count as <unk>"
    ):
        found = with_rare.log_likelihood(["a"], ["xq"])
    assert_array_equal(found, with_rare.log_likelihood(["a"], [["x", "<unk>"]]))


def test_attention_maps_are_weights_of_each_pair():
    model = small("gru", attention="additive").fit(X, Y, **QUICK)
    maps = model.attention_maps(X, Y)
    assert [m.shape for m in maps] == [(len(y) + 1, len(x)) for x, y in zip(X, Y)]
    for x, y, m in zip(X, Y, maps):
        assert_allclose(m.sum(1), 1, rtol=1e-5)
        assert_array_equal(m, model.attention_maps([x], [y])[0])
    for predicted, m, own in zip(model.predict(X), model.attention_maps(X), model.attention_maps(X, model.predict(X))):
        assert len(m) == len(predicted) + 1
        assert_array_equal(m, own)
    rare = small("gru", attention="dot", min_count=4).fit(["aab"] * 3, ["pq"] * 3, epochs=100, lr=0.02, verbose=False)
    assert rare.predict(["aab"]) == ["<unk><unk>"] and rare.attention_maps(["aab"])[0].shape == (3, 3)
    with pytest.raises(ValueError, match="was made with attention=None: it has no attention to show"):
        small().fit(X, Y, epochs=0, verbose=False).attention_maps(X, Y)


def greedy(model, x, limit):
    """Choose the most likely symbol after each step, with one call over all symbols so far for each."""
    [batch] = model._batches([x])
    given, _ = model._entries(model._coded(batch.source))
    ids = [model.vocabulary.start]
    while len(ids) <= limit and ids[-1] != model.vocabulary.end:
        y, _ = model.decoder(np.array(ids)[:, None], embedding=model.target_table, **given)
        ids.append(int(model.linear(y[-1]).argmax()))
    return "".join(model.vocabulary.decode([i for i in ids[1:] if i != model.vocabulary.end]))


@pytest.fixture(scope="module", params=[None, "additive"])
def fitted(request):
    """Return a model whose predictions are uncertain: its best hypotheses have different lengths."""
    return small("gru", attention=request.param, seed=3).fit(X, Y, epochs=40, batch_size=4, lr=0.02, verbose=False)


def test_beam_1_is_the_greedy_choice(fitted):
    assert fitted.predict(X) == [greedy(fitted, x, 7) for x in X]
    assert len(set(fitted.predict(X))) > 4
    assert fitted.predict(X, max_length=1) == [greedy(fitted, x, 1) for x in X]


@pytest.mark.parametrize("beam, length_penalty", [(1, 0.0), (3, 0.0), (5, 1.0)])
def test_predictions_batched_are_those_one_by_one_bit_for_bit(fitted, beam, length_penalty):
    options = dict(beam=beam, length_penalty=length_penalty, n_best=beam)
    together = fitted.predict(X, **options)
    assert together == [fitted.predict([x], **options)[0] for x in X]
    assert [best[0][0] for best in together] == fitted.predict(X, beam=beam, length_penalty=length_penalty)
    order = np.random.default_rng(0).permutation(len(X))
    assert fitted.predict([X[i] for i in order], **options) == [together[i] for i in order]


def test_the_score_of_a_candidate_is_its_log_likelihood(fitted):
    for x, best in zip(X, fitted.predict(X, beam=4, n_best=3, max_length=20)):
        texts, scores = zip(*best)
        assert len(set(texts)) == len(texts) == 3 and list(scores) == sorted(scores, reverse=True)
        assert_allclose(scores, fitted.log_likelihood([x] * 3, list(texts)), rtol=1e-4)
    for x, best in zip(X, fitted.predict(X, beam=4, n_best=2, length_penalty=0.7, max_length=20)):
        for text, score in best:
            assert_allclose(score, fitted.log_likelihood([x], [text])[0] / ((6 + len(text)) / 6) ** 0.7, rtol=1e-4)


def test_samples_come_from_the_seed_and_cold_ones_are_greedy(fitted):
    one, again, other = (fitted.sample(X * 4, seed=seed) for seed in (0, 0, 1))
    assert one == again != other
    assert fitted.sample(X, temperature=1e-3, seed=5) == fitted.predict(X)
    assert max(map(len, fitted.sample(X * 4, temperature=50.0, seed=0, max_length=3))) == 3


def test_targets_that_are_lists_come_back_as_lists():
    model = small().fit(X, [list(y) for y in Y], **QUICK)
    assert all(isinstance(found, list) for found in [*model.predict(X), *model.sample(X, seed=0)])
    as_text = small().fit(X, Y, **QUICK)
    assert [list(found) for found in as_text.predict(X)] == model.predict(X)


def test_what_a_search_cannot_do_is_named(fitted):
    for call, message in [
        (lambda: fitted.predict(X, beam=2, n_best=3), "n_best is 3, but beam=2 gives no more than 2: raise beam"),
        (lambda: fitted.predict(X, length_penalty=-1), "length_penalty is -1, but it must be >= 0"),
        (lambda: fitted.predict(["a", ""]), r"X\[1\] has no symbols"),
        (lambda: fitted.predict(X, max_length=0), "max_length is 0"),
        (lambda: fitted.sample(X, temperature=0), "temperature is 0, but it must be > 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
    assert fitted.predict([]) == fitted.sample([]) == []


def test_scheduled_sampling_learns_with_the_inputs_that_the_model_chose(fitted):
    [batch] = fitted._batches(X, Y)
    given, _ = fitted._entries(fitted._coded(batch.source))
    batch.sampling = 1.0
    own = fitted._own_inputs(batch, given, random_key(7, 2))
    assert (own[0] == fitted.vocabulary.start).all() and (own[1:] != batch.inputs[1:]).any()
    losses, gradients = [], []
    for inputs, sampling in ((batch.inputs, 1.0), (own, 0.0), (batch.inputs, 0.0)):
        batch.inputs, batch.sampling = inputs, sampling
        gradients.append(np.zeros_like(fitted.storage.flat))
        losses.append(fitted.loss_and_gradient(batch, into=gradients[-1], rng=7)[0])
    assert losses[0] == losses[1] != losses[2]
    assert_array_equal(gradients[0], gradients[1])
    other = []  # fraction of the inputs after the first that differ from the target's
    for batch.sampling in (1.0, 0.5, 0.1):
        other.append(np.mean([fitted._own_inputs(batch, given, key)[1:] != batch.inputs[1:] for key in range(20)]))
    assert other[0] > 1.5 * other[1] > 4 * other[2] > 0


def test_scheduled_sampling_follows_the_epochs():
    asked = []
    options = QUICK | dict(epochs=3)
    rising = (
        small().fit(X, Y, scheduled_sampling=lambda epoch: asked.append(epoch) or epoch / 2, **options).storage.flat
    )
    assert set(asked[3:]) == {0, 1, 2} == set(asked)
    never, none, always = (
        small().fit(X, Y, scheduled_sampling=p, **options).storage.flat for p in (lambda epoch: 0, 0.0, 1.0)
    )
    assert_array_equal(never, none)
    assert (rising != none).any() and (rising != always).any()


BAD = [
    ("ab", ["x"], {}, TypeError, "X is the str 'ab', but it must be a list of sequences: pass \\['ab'\\]"),
    (["ab"], "x", {}, TypeError, "y is the str 'x'"),
    ([], [], {}, ValueError, "there are no pairs"),
    (["a", "b"], ["x"], {}, ValueError, "X has 2 sources, but y has 1 targets: pass one target for each source"),
    (["a", ""], ["x", "y"], {}, ValueError, "X\\[1\\] has no symbols: leave it out"),
    ([["a", ""]], ["x"], {}, TypeError, "symbol 1 of X\\[0\\] is '', but it must be a str of at least one character"),
    (["a"], [["x", 5]], {}, TypeError, "symbol 1 of y\\[0\\] is 5"),
    (["a"], [7], {}, TypeError, "y\\[0\\] is int, but it must be a str, or a list or tuple of str"),
    (["a"], [["</s>"]], {}, ValueError, "symbol 0 of y\\[0\\] is '</s>', which is reserved"),
    (["a", "abc", "abcde"], ["x"] * 3, {"max_length": 2}, ValueError,
     "2 of 3 sources are longer than max_length=2; the first is number 1, and the longest has 5 symbols"),
    (["a"] * 3, ["x", "xyz", ""], {"max_length": 2}, ValueError,
     "1 of 3 targets are longer than max_length=2; the first is number 1"),
    (["a"], ["x"], {"validation": (["a"], ["x", "x"])}, ValueError, "X has 1 sources, but y has 2 targets"),
    (["a"], ["x"], {"validation": 0.9}, ValueError, "validation=0.9 of 1 cannot be held out: give more data"),
    (["a"], ["x"], {"scheduled_sampling": 1.5}, ValueError,
     "scheduled_sampling is 1.5, but it must be a number from 0 to 1"),
    (["a"], ["x"], {"scheduled_sampling": lambda epoch: epoch / 2, "epochs": 4}, ValueError,
     "scheduled_sampling is 1.5 in epoch 3, but"),
    (["a"], ["x"], {"label_smoothing": 2}, ValueError, "label_smoothing is 2, but it must be <= 1"),
]  # fmt: skip


@pytest.mark.parametrize("sources, targets, options, error, message", BAD, ids=range(len(BAD)))
def test_bad_pairs_are_named_before_any_work(sources, targets, options, error, message):
    model = small()
    with pytest.raises(error, match=message):
        model.fit(sources, targets, verbose=False, **options)
    assert model.storage is None
    with pytest.raises(RuntimeError, match="has not been fitted"):
        model.score(["a"], ["x"])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"context": None, "attention": None}, "the decoder has no access to the source"),
        ({"context": "first"}, "context is 'first', but it must be one of 'initial', 'every', 'both', None"),
        ({"attention": "soft"}, "attention is 'soft'"),
        ({"attention": "dot"}, "but they have 512 and 256 features: change decoder_size, or use 'general'"),
        (
            {"attention": "general", "attention_size": 3},
            "attention_size=3 is for additive attention, but attention is 'general'",
        ),
        (
            {"tied": True, "decoder_size": 100},
            "tied=True requires target_embedding = decoder_size, but they are 256 and 100",
        ),
    ],
)
def test_arguments_that_do_not_fit_together(options, message):
    with pytest.raises(ValueError, match=message):
        EncoderDecoder(**options)
