"""Arrays that callers change, share or pass twice, and objects used by two threads: correct results, or an error."""

import copy
import pickle
import threading

import numpy as np
import processes
import pytest
from nets import as_tuple, make, random_case, same_bits, same_gradients, same_state

import fastrnn
from fastrnn import AttentionDecoder, Embedding, Linear, _engine
from fastrnn.losses import softmax_cross_entropy
from fastrnn.search import own_inputs, search

# --- how a call is divided -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell, size, B, T", [("lstm", 8, 8, 513), ("rnn_tanh", 3, 8, 16000), ("gru", 8, 16, 257)])
def test_a_stream_computes_every_row_of_a_short_last_chunk(cell, size, B, T):
    net = make(cell, size, size, seed=0)
    x = np.random.default_rng(0).standard_normal((T, B, size)).astype("float32")
    with fastrnn.threads(1):
        want, _ = net(x)
    for threads in (2, 4):
        with fastrnn.threads(threads):
            same_bits(net.stream(B).run(x, out=np.full_like(want, np.nan)), want, f"{threads} threads")


@pytest.mark.parametrize("layers", [31, 32, 33, 70])
def test_any_number_of_layers_works(layers):
    """Run as one network, as layers pipelined on several threads, under attention, and in decoding."""
    rnn = fastrnn.GRU(2, 3, num_layers=layers, seed=0)
    x = np.random.default_rng(0).standard_normal((65, 2, 2)).astype("float32")
    with fastrnn.threads(1):
        want, state = rnn(x)
    with fastrnn.threads(2):
        same_bits(rnn(x)[0], want)
    decoder = AttentionDecoder(fastrnn.GRU(2, 3, num_layers=layers, seed=0), memory_size=3, seed=0)
    memory = np.ones((4, 2, 3), "float32")
    (y, _), backward = decoder.vjp(x, memory)
    (one, _), alone = decoder.vjp(x[:, :1], memory[:, :1])
    same_bits(np.ascontiguousarray(y[:, :1]), one)
    same_bits(np.ascontiguousarray(backward(y).x[:, :1]), alone(one).x)
    symbols, linear = Embedding(5, 2, seed=1), Linear(3, 5, seed=2)
    both = search(decoder, symbols, linear, rows=2, start=0, end=1, max_length=4, beam=2, memory=memory)
    [single] = search(decoder, symbols, linear, rows=1, start=0, end=1, max_length=4, beam=2, memory=memory[:, :1])
    assert [h.score for h in both[0]] == [h.score for h in single]


# --- arrays of the caller ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["ids", "lengths", "mask", "resets", "context", "state"])
def test_small_arguments_may_change_between_vjp_and_backward(what):
    case = random_case(
        "lstm",
        7,
        6,
        3,
        9,
        dtype="float32",
        lengths=what == "lengths",
        resets=what == "resets",
        context=4 if what == "context" else 0,
    )
    net, table, given = case.net(), Embedding(11, 3, seed=1), dict(case.given)
    x, state = case.x, case.layer_state()
    if what == "ids":
        x, given["embedding"] = np.random.default_rng(0).integers(0, 11, (7, 6)), table
    elif what == "mask":
        given["mask"] = np.random.default_rng(0).random((7, 6)) < 0.7
    (_, _), backward = net.vjp(x, state, **given)
    want = backward(case.dy, case.layer_dstate())
    if what == "ids":
        x[...] = 2**40
    elif what == "state":
        for s in state:
            s[...] = np.nan
    else:
        given[what][...] = ~given[what] if given[what].dtype == bool else 0 if what == "lengths" else np.nan
    same_gradients(backward(case.dy, case.layer_dstate()), want, what)


def test_ids_of_a_decoder_may_change_between_vjp_and_backward():
    decoder, table = AttentionDecoder(fastrnn.GRU(3, 8, seed=0), memory_size=6, seed=0), Embedding(4, 3, seed=0)
    ids, memory = np.array([[0, 1], [2, 3], [1, 1]]), np.ones((5, 2, 6), "float32")
    (y, _), backward = decoder.vjp(ids, memory, embedding=table)
    want = backward(y).embedding
    ids[...] = 2**40
    same_bits(backward(y).embedding, want)


@pytest.mark.parametrize("kind", ["GRU", "AttentionDecoder"])
def test_an_embedding_that_was_updated_after_vjp_is_an_error(kind):
    table, ids = Embedding(4, 3, seed=0), np.array([[0, 1], [2, 3]])
    layer = fastrnn.GRU(3, 8, seed=0)
    memory = ()
    if kind == "AttentionDecoder":
        layer, memory = AttentionDecoder(layer, memory_size=6, seed=0), (np.ones((5, 2, 6), "float32"),)
    (y, _), backward = layer.vjp(ids, *memory, embedding=table)
    backward(y)
    with table.updating() as flat:
        flat += 1
    with pytest.raises(RuntimeError, match="the parameters of this Embedding have changed since the forward pass"):
        backward(y)


def test_parameters_can_be_swapped_by_views_of_themselves():
    net = fastrnn.GRU(3, 4, num_layers=2, seed=0)
    kept = net.state_dict()
    swapped = dict(net.params) | {"bias_ih_l0": net.params["bias_hh_l0"], "bias_hh_l0": net.params["bias_ih_l0"]}
    net.load_state_dict(swapped)
    same_bits(np.array(net.params["bias_ih_l0"]), kept["bias_hh_l0"])
    same_bits(np.array(net.params["bias_hh_l0"]), kept["bias_ih_l0"])


@pytest.mark.parametrize("shift", [0, 1, -1, 40])
def test_out_may_overlap_what_is_read(shift):
    """Results and gradients are those of separate arrays, as with NumPy's functions."""
    linear, stream = Linear(8, 8, seed=0), fastrnn.GRU(8, 8, seed=0).stream(3)
    memory = np.random.default_rng(0).standard_normal(200).astype("float32")
    x, out = memory[40:64].reshape(3, 8), memory[40 + shift : 64 + shift].reshape(3, 8)
    given = x.copy()
    want, state = stream.step(given), stream.state
    stream.reset()
    same_bits(stream.step(x, out=out), want, "step")
    same_state(stream.state, state)
    stream.reset()
    x[...] = given
    same_bits(stream.run(x[None], out=out[None])[0], want, "run")
    x[...] = given
    want, want_backward = linear.vjp(given)
    same_bits(linear(x, out=out), want, "Linear")
    x[...] = given
    y, backward = linear.vjp(x, out=out)
    same_bits(y, want, "Linear.vjp")
    same_bits(backward(np.ones_like(given)).flat, want_backward(np.ones_like(given)).flat, "Linear.vjp")
    x[...] = given
    loss, backward = softmax_cross_entropy.vjp(x, [1, 2, 3], out=out)
    want_loss, want_backward = softmax_cross_entropy.vjp(given, [1, 2, 3])
    assert loss == want_loss
    same_bits(out, want_backward(), "softmax")


def test_a_copy_of_a_backward_shares_its_tape():
    net = fastrnn.LSTM(3, 8, seed=0)
    x = np.random.default_rng(0).standard_normal((5, 2, 3)).astype("float32")
    (y, _), backward = net.vjp(x)
    want = backward(y)
    other = copy.copy(backward)
    del other
    passes = [net.vjp(x + k) for k in range(3)]  # which would take the tape from the pool
    same_gradients(backward(y), want)
    other = copy.copy(backward)
    other.release()
    with pytest.raises(RuntimeError, match="released: run vjp again"):
        backward(y)
    with pytest.raises(TypeError, match="neither pickled nor deep-copied"):
        copy.deepcopy(passes[0][1])


# --- streams -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["plain", "learnt", "stacked"])
def test_a_stream_takes_none_as_its_initial_state_and_refuses_to_be_pickled(kind):
    net = fastrnn.LSTM(3, 4, seed=0, learn_initial_state=kind == "learnt")
    if kind == "learnt":
        with net.updating() as flat:
            flat += 0.1
    if kind == "stacked":
        net = fastrnn.Stacked([net, fastrnn.GRU(4, 2, seed=1)])
    stream = net.stream(2)
    x = np.ones((2, 3), "float32")
    first = stream.step(x)
    stream.state = None
    same_bits(stream.step(x), first)
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        if kind == "stacked" and attempt is copy.copy:
            continue
        with pytest.raises(
            TypeError, match="a stream can be neither pickled nor copied: pickle the LSTM and `stream.state`"
        ):
            attempt(stream)


def test_a_stream_in_use_by_another_thread_raises():
    net = fastrnn.LSTM(16, 64, num_layers=2, seed=0)
    x = np.random.default_rng(0).standard_normal((400, 2, 16)).astype("float32")
    want, _ = net(x)
    stream, refused, over = net.stream(2), [], threading.Event()

    def disturb(k):
        verbs = (
            stream.refresh,
            stream.reset,
            lambda: stream.step(x[0]),
            lambda: stream.state,
            lambda: setattr(stream, "state", None),
        )
        while not over.is_set():
            try:
                verbs[k]()
            except RuntimeError as error:
                refused.append(str(error))

    others = [threading.Thread(target=disturb, args=(k,)) for k in range(5)]
    for other in others:
        other.start()
    tried = 0
    while tried < 300 and len(refused) < 20:
        try:
            stream.run(x)
        except RuntimeError as error:
            refused.append(str(error))
        tried += 1
    over.set()
    for other in others:
        other.join()
    assert refused and set(refused) == {
        "this stream is used by another call at the same time: give each thread its own stream, or use a lock"
    }
    stream.reset()
    same_bits(stream.run(x), want)


def test_a_refresh_that_runs_out_of_memory_changes_nothing(monkeypatch):
    net, x = fastrnn.LSTM(3, 8, num_layers=2, seed=0), np.ones((4, 1, 3), "float32")
    stream = net.stream()
    stream.run(x)
    state = stream.state
    want = stream.run(x)
    with net.updating() as flat:
        flat *= 0.5
    made = np.empty
    for allowed in range(100):
        stream.state = state
        left = [allowed]

        def scarce(*args, left=left, **kwargs):
            left[0] -= 1
            if left[0] < 0:
                raise MemoryError
            return made(*args, **kwargs)

        net._packed_for = None
        monkeypatch.setattr(np, "empty", scarce)
        try:
            stream.refresh()
        except MemoryError:
            monkeypatch.setattr(np, "empty", made)
            same_bits(stream.run(x), want, f"{allowed} arrays")
        else:
            break
    monkeypatch.setattr(np, "empty", made)
    assert allowed > 5
    same_state(stream.state, state)
    same_bits(stream.run(x), net(x, state)[0])


def test_the_first_products_of_two_threads_are_of_one_blas():
    code = """
import os, threading, time
import numpy as np, fastrnn
listdir = os.listdir
os.listdir = lambda *a: (time.sleep(0.2), listdir(*a))[1]    # while it is looked for, the other threads go on
net, x = fastrnn.RNN(64, 256, seed=0), np.random.default_rng(0).standard_normal((200, 2, 64)).astype("float32")
start, found = threading.Barrier(6), []
def work():
    (y, _), backward = net.vjp(x)
    start.wait()
    found.append(backward(y).flat.tobytes())
workers = [threading.Thread(target=work) for _ in range(6)]
[w.start() for w in workers]
[w.join() for w in workers]
work_again = net.vjp(x)
assert set(found) == {work_again[1](work_again[0][0]).flat.tobytes()}, "different bits"
print("one")
"""
    assert processes.output(code, FASTRNN_ISA=_engine.available_isas()[-1]).strip() == "one"


# --- writers -------------------------------------------------------------------------------------------------------


def test_search_refuses_layers_and_symbols_that_do_not_fit():
    rnn, symbols, linear = fastrnn.GRU(4, 8, seed=0), Embedding(5, 4, seed=1), Linear(8, 5, seed=2)
    usual = dict(rows=2, start=0, end=1, max_length=3)
    for layers, changed, message in (
        ((rnn, Embedding(5, 3), linear), {}, "the embedding has 3 features, but this GRU was made with input_size=4"),
        ((rnn, Embedding(4, 4), linear), {}, "linear has 5 outputs, but the embedding has 4 rows"),
        ((rnn, symbols, Linear(7, 5)), {}, "linear was made with in_features=7, but this GRU gives 8 features"),
        ((rnn, symbols, Linear(8, 5, dtype="float64")), {}, "the linear is float64, but this GRU computes in float32"),
        ((rnn, Embedding(5, 4, dtype="float64"), linear), {}, "the embedding is float64"),
        (
            (fastrnn.GRU(4, 4, bidirectional=True), symbols, linear),
            {},
            "bidirectional=True, but a decoder runs forward in time",
        ),
        ((fastrnn.GRU(4, 8, reverse=True), symbols, linear), {}, "reverse=True, but a decoder runs forward in time"),
        ((fastrnn.LSTM(4, 9, proj_size=8), symbols, linear), {}, "proj_size=8"),
        ((rnn, symbols, linear), dict(start=5), "start is 5, but the embedding has 5 symbols: 0 to 4"),
        ((rnn, symbols, linear), dict(end=5), "end is 5, but linear has 5 symbols: 0 to 4"),
        ((rnn, symbols, linear), dict(end=-1), "end is -1"),
        ((rnn, symbols, linear), dict(max_length=2.5), "max_length are float64"),
        ((rnn, linear, symbols), {}, "embedding is Linear, but it must be a fastrnn.Embedding"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            search(*layers, **(usual | changed))
    for given, message in (
        ([[0, 5]], "id 5"),
        ([[-1, 0]], "id -1"),
        ([[0, 0], [-2, 0]], "id -2"),
        ([0, 1], r"got shape \(2,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            own_inputs(rnn, symbols, linear, given=np.array(given))


def test_search_starts_from_a_learnt_initial_state():
    rnn, symbols, linear = (
        fastrnn.LSTM(4, 8, seed=0, learn_initial_state=True),
        Embedding(5, 4, seed=1),
        Linear(8, 5, seed=2),
    )
    with rnn.updating() as flat:
        flat += 0.3
    state = tuple(np.repeat(s[:, None], 3, axis=1) for s in rnn._initial_state())
    usual = dict(rows=3, start=0, end=1, max_length=6, beam=2, n_best=2)
    got, want = search(rnn, symbols, linear, **usual), search(rnn, symbols, linear, state, **usual)
    assert [[h.score for h in row] for row in got] == [[h.score for h in row] for row in want]
    assert len(as_tuple(state)) == 2


def test_integers_that_would_wrap_around_are_refused():
    with pytest.raises(ValueError, match="targets go up to 18446744073709551615, but they must fit"):
        softmax_cross_entropy(np.zeros((1, 3)), np.array([2**64 - 1], np.uint64))
