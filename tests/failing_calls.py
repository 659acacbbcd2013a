"""Make each allocation of a call fail in turn, or refuse threads: run by test_no_memory.py with failing.c preloaded."""

import ctypes
import errno
import gc
import itertools
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

import fastrnn
from fastrnn import _engine, optim
from fastrnn._files import storage
from fastrnn.losses import softmax_cross_entropy
from fastrnn.models import LanguageModel
from fastrnn.search import search

SHIM = ctypes.CDLL(None)
SHIM.failing_begin.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_size_t]
SHIM.failing_end.restype = ctypes.c_long
SHIM.failing_live.restype = ctypes.c_long
SHIM.failing_threads.argtypes = [ctypes.c_long]
SHIM.failing_threads.restype = ctypes.c_long

DONE = 9  # exit status of a child: there were no more allocations
RNG = np.random.default_rng(0)


@dataclass
class Work:
    """A call to try.

    run : does it and returns its results, a list of arrays
    state : what must be unchanged if `run` fails, a list of arrays
    restore : resets everything to the state before the first `run`
    """

    run: Callable
    state: Callable = list
    restore: Callable = lambda: None


def random(*shape):
    return RNG.standard_normal(shape).astype("float32")


def flat_state(state):
    return list(state) if isinstance(state, tuple) else [state]


LENGTHS = np.array([9, 4, 7, 0, 6])


def small_net(make=fastrnn.LSTM, **options):
    return make(7, 21, 2, bidirectional=True, seed=1, **options)


def results(net, x, **given):
    y, state = net(x, **given)
    return [y, *flat_state(state)]


def trained(outputs, backward):
    (y, state), dy = outputs, random(*outputs[0].shape)
    g = backward(dy)
    return [y, *flat_state(state), g.x, g.flat, *flat_state(g.state)]


# ---- calls to try ----------------------------------------------------------------------------------------------------


def call():
    net, x = small_net(), random(9, 5, 7)
    return Work(lambda: results(net, x, lengths=LENGTHS), lambda: [net.flat])


def first_call():
    """A first call: nothing is packed, and the pools are empty."""
    x = random(9, 5, 7)
    return Work(
        lambda: results(
            small_net(fastrnn.GRU), x, lengths=LENGTHS, mask=np.ones((9, 5), bool) ^ np.eye(9, 5, dtype=bool)
        )
    )


def large_call():
    """A call divided among threads, in arrays that malloc maps from the system."""
    net, x = fastrnn.LSTM(64, 128, seed=0), random(60, 32, 64)
    return Work(lambda: results(net, x), lambda: [net.flat])


def states():
    net, x = small_net(), random(9, 5, 7)
    return Work(lambda: flat_state(net(x, lengths=LENGTHS, return_states=True)[2]), lambda: [net.flat])


def vjp():
    """The forward pass with its tape; dropout draws the same masks again after a failure."""
    net, x = small_net(dropout=0.5), random(9, 5, 7)

    def restore():
        net._calls = 0

    def run():
        (y, state), _ = net.vjp(x, lengths=LENGTHS, resets=np.eye(9, 5, dtype=bool))
        return [y, *flat_state(state)]

    return Work(run, lambda: [net.flat, np.array(net._calls)], restore)


def backward():
    net, x = small_net(), random(9, 5, 7)
    (y, _), back = net.vjp(x, lengths=LENGTHS)
    dy = random(*y.shape)

    def run():
        g = back(dy)
        return [g.x, g.flat, *flat_state(g.state)]

    return Work(run, lambda: [net.flat])


def step_of_stream():
    stream, x = fastrnn.LSTM(7, 70, 2, seed=1).stream(30), random(30, 14)[:, ::2]
    return Work(lambda: [stream.step(x)], lambda: flat_state(stream.state), stream.reset)


def run_of_stream():
    stream, x = fastrnn.LSTM(7, 21, 2, seed=1).stream(3), random(200, 3, 7)
    return Work(lambda: [stream.run(x[::-2])], lambda: flat_state(stream.state), stream.reset)


def new_stream():
    net, x = fastrnn.GRU(7, 21, 2, seed=1), random(3, 7)
    return Work(lambda: [net.stream(3).step(x)], lambda: [net.flat])


def refresh():
    net, x = fastrnn.GRU(7, 21, 2, seed=1), random(3, 7)
    stream = net.stream(3)
    stream.step(x)
    start = stream.state

    def restore():
        stream.state = start

    def run():
        stream.refresh()
        return [stream.step(x)]

    return Work(run, lambda: [stream.state], restore)


def attention(**options):
    rnn = fastrnn.GRU(4, 9, 2, seed=1)
    decoder = fastrnn.AttentionDecoder(rnn, 9, seed=2, **options)
    return decoder, dict(memory=random(6, 5, 9), memory_lengths=np.array([6, 1, 3, 0, 5]))


def decoder():
    net, given = attention()
    x, lengths = random(7, 5, 4), np.array([7, 2, 5, 3, 0])
    return Work(lambda: results(net, x, lengths=lengths, **given), lambda: [net.flat])


def decoder_gradients():
    net, given = attention()
    x, dy = random(7, 5, 4), random(7, 5, 9)

    def run():
        (y, state), back = net.vjp(x, **given)
        g = back(dy)
        return [y, state, g.x, g.memory, g.flat]

    return Work(run, lambda: [net.flat])


def beam_search():
    net, given = attention()
    symbols, linear = fastrnn.Embedding(11, 4, seed=3), fastrnn.Linear(9, 11, seed=4)

    def run():
        found = search(net, symbols, linear, rows=5, start=0, end=1, max_length=6, beam=3, **given)
        return [np.array([*h.ids, h.score]) for hypotheses in found for h in hypotheses]

    return Work(run, lambda: [net.flat, linear.flat, symbols.flat])


def layers():
    table, linear, dropout = (
        fastrnn.Embedding(11, 40, seed=3),
        fastrnn.Linear(40, 11, seed=4),
        fastrnn.Dropout(0.5, seed=1),
    )
    ids, targets = RNG.integers(0, 11, (9, 5)), RNG.integers(0, 11, (9, 5))

    def run():
        x, to_table = table.vjp(ids)
        x, to_x = dropout.vjp(x, rng=3)
        logits, to_linear = linear.vjp(x)
        loss, to_logits = softmax_cross_entropy.vjp(logits, targets)
        g = to_linear(to_logits())
        return [np.array(loss), g.flat, to_table(to_x(g.x).x).flat]

    return Work(run, lambda: [table.flat, linear.flat])


def optimiser():
    """An optimiser's steps, starting with the first, in which its moments are created."""
    net = small_net()
    start, grad = net.flat.copy(), random(*net.flat.shape)
    made = {}

    def restore():
        made["optimiser"] = optim.Adam(net)
        with net.updating() as flat:
            flat[:] = start

    def run():
        _, scale = optim.clip_by_global_norm(grad, 1.0)
        made["optimiser"].step(grad, scale)
        return [net.flat]

    return Work(run, lambda: [net.flat, np.array(made["optimiser"].updates)], restore)


def load_state_dict():
    net, other = small_net(), small_net()
    with other.updating() as flat:
        flat += 1
    start, given = net.state_dict(), {name: a.tolist() for name, a in other.state_dict().items()}

    def run():
        net.load_state_dict(given)
        return [net.flat]

    return Work(run, lambda: [net.flat], lambda: net.load_state_dict(start))


def copies():
    net, x = small_net(), random(9, 5, 7)
    return Work(lambda: [net.copy().flat, net.astype("float64").flat, results(net.copy(), x)[0]], lambda: [net.flat])


def fit():
    """A fit. The parameters after a failed fit are not checked; the next fit must give the same bits."""
    text = "".join(RNG.choice(list("abc d"), 4000))

    def run():
        model = LanguageModel("gru", 64, seed=1)
        model.fit(text, epochs=1, batch_size=16, seq_len=50, verbose=False)
        return [model.storage.flat]

    return Work(run)


def folder_of(arrays, config):
    folder = tempfile.mkdtemp()
    storage.save(folder, arrays, config)
    return folder


def save():
    """A save. The contents of the directory must stay intact."""
    old, new = {"w": random(300, 300)}, {"w": random(300, 300).T}
    folder = folder_of(old, {"a": 1})

    def run():
        storage.save(folder, new, {"a": 2})
        return []

    return Work(run, lambda: [*storage.load(folder)[0].values()], lambda: storage.save(folder, old, {"a": 1}))


def load():
    folder = folder_of({"w": random(300, 300), "b": random(40)}, {"a": 1})
    return Work(lambda: [*storage.load(folder)[0].values()])


WORKS = {
    f.__name__: f
    for f in (
        call, first_call, large_call, states, vjp, backward, step_of_stream, run_of_stream, new_stream, refresh,
        decoder, decoder_gradients, beam_search, layers, optimiser, load_state_dict, copies, fit, save, load,
    )
}  # fmt: skip


# ---- failing each allocation -----------------------------------------------------------------------------------------


def bits(arrays):
    return [(a.dtype.str, a.shape, a.tobytes()) for a in map(np.asarray, arrays)]


def attempt(work, n, count, least):
    """Return (bits of the results and of the state after it, or None if there was no memory; allocations seen)."""
    SHIM.failing_begin(n, count, least)
    try:
        found = work.run()
    except MemoryError:
        found = None
    except (SystemError, RuntimeError) as error:  # what NumPy and Python raise in place of MemoryError
        if not any(
            said in str(error)
            for said in ("without exception set", "without setting an exception", "can't allocate lock")
        ):
            raise
        found = None
    finally:
        seen = SHIM.failing_end()
    return None if found is None else bits([*found, *work.state()]), seen


def sweep(name, work, least, count, stride):
    """Fail each allocation of `least` bytes or more, and `count - 1` after it: MemoryError or the right bits."""
    failed = needless = 0
    for _ in range(2):  # first, create everything that is created once, at first use
        work.restore()
        want, _ = attempt(work, 0, 0, least)
    for n in itertools.count(1, stride):
        work.restore()
        before = bits(work.state())
        found, seen = attempt(work, n, count, least)
        if seen < n:
            break
        if found is not None:
            needless += 1
        else:
            failed += 1
            assert bits(work.state()) == before, f"{name}: the state changed where allocation {n} failed"
            found, _ = attempt(work, 0, 0, least)
        assert found == want, f"{name}: other results where allocation {n} failed, or in the call after it"
    return failed, needless


def report(name, least, count, stride):
    """Check that one of three more rounds keeps nothing: a leak shows in each, a cache that fills only in some.

    All rounds share the work, because each new net adds its layouts to bounded caches. Python 3.10 also adds a cache to
    each function at its 1024th call.
    """
    work, kept = WORKS[name](), []
    for _ in range(4 if stride == 1 else 1):
        failed, needless = sweep(name, work, least, count, stride)
        gc.collect()
        kept.append(SHIM.failing_live())
    growth = min((after - before for before, after in itertools.pairwise(kept)), default=0)
    assert growth < max(1000, least), f"{name}: {growth} bytes more are kept after each sweep: {kept}"
    print(
        f"{name}: {failed} of {failed + needless} calls failed, "
        f"one for each of its allocations of {least} bytes or more",
        flush=True,
    )


def first_training():
    """Fail each allocation of loading BLAS in its own process: MemoryError, unchanged environment, next call works."""
    getenv = ctypes.CDLL(None).getenv
    getenv.restype = ctypes.c_char_p
    os.environ["OPENBLAS_NUM_THREADS"] = "3"
    for n in itertools.count(1):
        child = os.fork()
        if not child:
            SHIM.failing_begin(n, 1, 1)
            try:
                _engine.blas_core()
            except (MemoryError, OSError) as error:
                assert isinstance(error, MemoryError) or error.errno == errno.ENOMEM
            seen = SHIM.failing_end()
            _engine.blas_core()
            os._exit(DONE if seen < n else getenv(b"OPENBLAS_NUM_THREADS") != b"3")
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status == DONE:
            break
        assert status == 0, f"first training: exit status {status} where allocation {n} failed"
    print(f"first training: {n - 1} of {n - 1} calls went well, one for each of its allocations")


def refused_threads():
    """Check for the same bits on fewer threads, whichever the system refuses, and on all once it provides them."""
    net, x = fastrnn.LSTM(64, 128, seed=0), random(60, 32, 64)
    with fastrnn.threads(1):
        want = bits(results(net, x))
    asked = 0
    for split in ("rows", "units", None):
        _engine.force_split(split)
        for refused in (
            (1000, 0) if split is None else (1000, 2)
        ):  # refused: all threads; the first ones, which later calls get; all of them
            SHIM.failing_threads(refused)
            for n in (2, 4, 6):
                with fastrnn.threads(n):
                    assert bits(results(net, x)) == want, (split, refused, n)
            asked += SHIM.failing_threads(0)
    assert asked >= 4, asked
    print("threads refused: the same bits")


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # of a fit without training
    if sys.argv[1] in ("refused_threads", "first_training"):
        globals()[sys.argv[1]]()
    else:
        for name in sys.argv[1].split(","):
            report(name, *map(int, sys.argv[2:]))
