"""Put a load on the library: many threads that call at once, forks in between, constantly changing shapes.

    MALLOC_ARENA_MAX=1 python tests/load.py --minutes 60    as in `make load`
    python tests/load.py --rounds 2 --adapters no           as in the tests

A round draws new networks, computes their results on one thread, and lets all callers compute them again, each time
with another number of threads, while other processes are forked. All must give the same bits. It prints counts, and the
resident memory in the second and in the last quarter of the rounds, which must be equal. (This needs one malloc arena:
with several, glibc keeps the free memory of threads that have ended.)
"""

import argparse
import ctypes
import gc
import hashlib
import importlib.util
import os
import signal
import statistics
import sys
import threading
import time
import traceback
from collections import Counter

import numpy as np
from nets import CELLS, DTYPES, as_tuple, random_case

import fastrnn

MAY_GROW = 24  # MB between the second and the last quarter of the rounds


def digest(*results):
    """Return a digest of arrays, tuples of them, and Gradients."""
    found = hashlib.sha256()

    def add(value):
        if isinstance(value, (tuple, list)):
            for part in value:
                add(part)
        elif value is not None:
            found.update(np.ascontiguousarray(value).tobytes())

    add(results)
    return found.hexdigest()


def gradients(g):
    return [g.x, as_tuple(g.state), g.context, g.flat]


# --- jobs: each returns a function without arguments that computes a digest ------------------------------------------


def layer(rng, seed):
    """A call, or vjp and its backward, with any cell and options."""
    T, B, I, H = (
        int(n) for n in (rng.integers(1, 30), rng.choice([1, 2, 5, 33, 80]), rng.integers(1, 40), rng.integers(1, 150))
    )
    two = rng.random() < 0.3
    case = random_case(
        CELLS[rng.integers(len(CELLS))], T, B, I, H, dtype=DTYPES[rng.integers(2)], seed=seed, state=rng.random() < 0.5,
        lengths=rng.random() < 0.4, resets=rng.random() < 0.2, context=int(rng.integers(0, 3)),
        num_layers=int(rng.integers(1, 4)), bidirectional=two,
    )  # fmt: skip
    if rng.random() < 0.2:
        case.given["mask"] = rng.random((T, B)) < 0.7
    net, state, checks = case.net(), case.layer_state(), rng.random() < 0.2

    def run():
        called = net(case.x, state, **case.given, check_finite=checks)
        trained, backward = net.vjp(case.x, state, **case.given, check_finite=checks)
        assert digest(*called) == digest(*trained)
        return digest(*called, *gradients(backward(case.dy, case.layer_dstate())))

    return run


def stream(rng, seed):
    """A stream, step by step and in chunks; each call has its own stream."""
    cell, H, B, L = (
        (fastrnn.LSTM, fastrnn.GRU, fastrnn.RNN)[seed % 3],
        int(rng.integers(1, 200)),
        int(rng.choice([1, 3, 40])),
        int(rng.integers(1, 4)),
    )
    net, x = cell(5, H, L, seed=seed), rng.standard_normal((60, B, 5)).astype("float32")

    def run():
        s = net.stream(B)
        y = np.concatenate([np.stack([s.step(x_t) for x_t in x[:10]]), s.run(x[10:])])
        assert digest(y) == digest(net(x)[0])
        return digest(y, s.state)

    return run


def stack(rng, seed):
    H = int(rng.integers(1, 100))
    net = fastrnn.Stacked(
        [fastrnn.GRU(4, H, bidirectional=True, seed=seed), fastrnn.LSTM(2 * H, 7, dropout=0.0, seed=seed)], dropout=0.2
    )
    x = rng.standard_normal((15, 20, 4)).astype("float32")

    def run():
        (y, state), backward = net.vjp(x, rng=seed)
        g = backward(np.ones_like(y))
        return digest(y, *map(as_tuple, state), g.x, g.flat)

    return run


def decoder(rng, seed):
    H, B = int(rng.integers(1, 80)), int(rng.choice([1, 4, 40]))
    net = fastrnn.AttentionDecoder(fastrnn.GRU(3, H, seed=seed), 6, seed=seed)
    x, memory = (rng.standard_normal((T, B, n)).astype("float32") for T, n in ((12, 3), (20, 6)))

    def run():
        (y, state), backward = net.vjp(x, memory, memory_lengths=np.full(B, 15))
        g = backward(np.ones_like(y))
        return digest(y, state, g.x, g.memory, g.flat)

    return run


def torch_module(rng, seed):
    import torch

    torch.set_num_threads(1)
    import fastrnn.torch

    torch.manual_seed(seed)
    net = fastrnn.torch.LSTM(4, int(rng.integers(1, 60)), 2)
    x = torch.from_numpy(rng.standard_normal((9, 6, 4)).astype("float32"))

    def run():
        leaf = x.clone().requires_grad_()
        y, (h, c) = net(leaf)
        grads = torch.autograd.grad(y.sum() + c.sum(), [leaf, *net.parameters()])
        return digest(*(part.detach().numpy() for part in (y, h, c, *grads)))

    return run


def onnx_model(rng, seed):
    import fastrnn.onnx

    net = fastrnn.GRU(4, int(rng.integers(1, 60)), bidirectional=True, seed=seed)
    prepared = fastrnn.onnx.prepare(fastrnn.onnx.export(net, lengths=False, state=False))
    x = rng.standard_normal((9, 6, 4)).astype("float32")
    return lambda: digest(list(prepared.run([x])))


OWN = (layer, layer, layer, stream, stack, decoder)


def kinds(adapters):
    """Return the jobs, including those of the installed adapters."""
    found = [torch_module] * (importlib.util.find_spec("torch") is not None)
    found += [onnx_model] * all(importlib.util.find_spec(name) is not None for name in ("onnx",))
    return OWN + (tuple(found) if adapters else ())


# --- rounds ------------------------------------------------------------------------------------------------------


def in_child(jobs, wanted):
    """Compute some jobs in a forked process, and return whether it ended with the same digests."""
    child = os.fork()
    if not child:
        signal.alarm(120)
        try:
            with fastrnn.threads(2):
                good = all(job() == want for job, want in zip(jobs, wanted))
        except BaseException:
            traceback.print_exc()
            good = False
        os._exit(0 if good else 1)
    return os.waitpid(child, 0)[1] == 0


def round_of(seed, callers, calls, forks, adapters):
    """Run one round, and return counts and a list of failures."""
    rng, makers = np.random.default_rng(seed), kinds(adapters)
    chosen = [makers[k % len(makers)] for k in range(2 * len(makers))]
    jobs = [make(rng, seed * 1000 + k) for k, make in enumerate(chosen)]
    names = [make.__name__ for make in chosen]
    with fastrnn.threads(1):
        wanted = [job() for job in jobs]
    counts, wrong = Counter(), []

    def caller(number):
        own = np.random.default_rng([seed, number])
        for _ in range(calls):
            k, n = int(own.integers(len(jobs))), int(own.integers(1, 5))
            try:
                with fastrnn.threads(n):
                    same = jobs[k]() == wanted[k]
            except BaseException as error:
                same, error = (
                    False,
                    wrong.append(f"round {seed}, {names[k]} on {n} threads: {type(error).__name__}: {error}"),
                )
            counts[names[k]] += 1
            if not same:
                wrong.append(f"round {seed}, {names[k]} (job {k}) on {n} threads: other bits")

    threads = [threading.Thread(target=caller, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    forked = [
        k for k, name in enumerate(names) if name in {make.__name__ for make in OWN}
    ]  # torch does not guarantee that a forked process works
    for _ in range(forks):
        some = [int(k) for k in rng.choice(forked, 2)]
        counts["forks"] += 1
        if not in_child([jobs[k] for k in some], [wanted[k] for k in some]):
            wrong.append(f"round {seed}: a forked process with jobs {some}")
    for thread in threads:
        thread.join()
    return counts, wrong


def give_back():
    """Collect garbage and return free memory to the system: glibc keeps it per thread, in fragments."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def resident():
    """Return the resident memory in MB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, help="how long; in place of --rounds")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--callers", type=int, default=8, help="threads that call at once")
    parser.add_argument("--calls", type=int, default=20, help="of each caller in a round")
    parser.add_argument("--forks", type=int, default=2, help="processes forked in a round")
    parser.add_argument("--seed", type=int, default=0, help="of the first round")
    parser.add_argument(
        "--adapters",
        choices=("yes", "no"),
        default="yes",
        help="also those for torch and ONNX, where these are installed",
    )
    given = parser.parse_args(argv)
    end = None if given.minutes is None else time.monotonic() + 60 * given.minutes
    total, memory, rounds = Counter(), [], 0
    while rounds < given.rounds if end is None else time.monotonic() < end:
        counts, wrong = round_of(given.seed + rounds, given.callers, given.calls, given.forks, given.adapters == "yes")
        total, rounds = total + counts, rounds + 1
        give_back()
        memory.append(resident())
        if wrong:
            print(*wrong, sep="\n")
            return 1
        if end is not None and rounds % 50 == 0:
            print(
                f"{rounds} rounds, {total.total() - total['forks']} calls, {total['forks']} forks, {memory[-1]:.0f} MB",
                flush=True,
            )
    quarter = max(1, len(memory) // 4)
    first, last = (statistics.median(part) for part in (memory[quarter : 2 * quarter] or memory, memory[-quarter:]))
    print(
        f"{total.total() - total['forks']} calls in {rounds} rounds, all with the same bits: "
        + ", ".join(f"{k} {n}" for k, n in sorted(total.items()))
    )
    print(
        f"resident memory: {first:.1f} MB in the second quarter, {last:.1f} MB in the last, "
        f"{max(memory):.1f} MB at most"
    )
    tenths = [f"{statistics.median(part):.0f}" for part in np.array_split(memory, min(10, len(memory)))]
    print(f"by tenths of the run: {', '.join(tenths)} MB")
    if rounds >= 20 and last > first + MAY_GROW:
        print(f"memory grew by {last - first:.1f} MB, more than {MAY_GROW}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
