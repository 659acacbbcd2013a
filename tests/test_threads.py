"""Threads: how many, fork, many callers, Ctrl-C, and the floating-point mode of the caller."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import processes
import pytest
from nets import CELLS, random_case, same_bits, same_gradients, same_state

import fastrnn


def test_the_number_of_threads_is_what_was_set():
    before = fastrnn.get_num_threads()
    assert before >= 1
    fastrnn.set_num_threads(3)
    assert fastrnn.get_num_threads() == 3
    with fastrnn.threads(2):
        assert fastrnn.get_num_threads() == 2
        with fastrnn.threads(1):
            assert fastrnn.get_num_threads() == 1
        assert fastrnn.get_num_threads() == 2
    assert fastrnn.get_num_threads() == 3


def test_threads_holds_in_its_own_python_thread_and_ends_on_an_error():
    fastrnn.set_num_threads(2)
    with ThreadPoolExecutor(1) as pool, fastrnn.threads(3):
        assert pool.submit(fastrnn.get_num_threads).result() == 2
    with pytest.raises(ZeroDivisionError), fastrnn.threads(3):
        1 / 0  # noqa: B018
    assert fastrnn.get_num_threads() == 2


@pytest.mark.parametrize(
    "variables, want",
    [
        ({"FASTRNN_NUM_THREADS": "3"}, "3"),
        ({"OMP_NUM_THREADS": "3"}, "3"),
        ({"FASTRNN_NUM_THREADS": "1", "OMP_NUM_THREADS": "3"}, "1"),
    ],
)
def test_the_environment_gives_the_first_number_of_threads(variables, want):
    assert processes.output("import fastrnn; print(fastrnn.get_num_threads())", **variables).strip() == want


def test_without_a_word_there_are_no_more_threads_than_cpus():
    count = int(processes.output("import fastrnn; print(fastrnn.get_num_threads())"))
    assert 1 <= count <= len(os.sched_getaffinity(0))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no CPU affinity")
def test_a_process_bound_to_one_cpu_uses_one_thread():
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); import fastrnn; print(fastrnn.get_num_threads())"
    assert processes.output(code).strip() == "1"


FORK = """
import os, signal, sys
import multiprocessing
import numpy as np
import fastrnn

fastrnn.set_num_threads(2)
x = np.random.default_rng(0).standard_normal((20, 33, 24)).astype("float32")

def work(H):
    net = fastrnn.GRU(24, H, seed=0)
    (y, _), backward = net.vjp(x)
    return y.tobytes() + backward(np.ones_like(y)).flat.tobytes()

if __name__ == "__main__":
    sizes = [6, 90, 128, 512]
    want = {H: work(H) for H in sizes}             # the team runs before the fork
    for H in sizes:
        child = os.fork()
        if not child:
            signal.alarm(30)
            os._exit(0 if work(H) == want[H] else 1)
        assert os.waitpid(child, 0)[1] == 0, H
        assert work(H) == want[H], "the parent after a fork"
    with multiprocessing.get_context("fork").Pool(5) as pool:
        assert pool.map(work, sizes * 3) == [want[H] for H in sizes * 3]
    print("finished")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_fork_after_use_finishes_with_the_same_bits(tmp_path):
    script = tmp_path / "fork.py"
    script.write_text(FORK)
    done = subprocess.run([sys.executable, script], env=processes.environment(), capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "finished", done.stderr


@pytest.mark.parametrize("cell", CELLS)
def test_many_python_threads_calling_one_object_get_the_same_bits(cell):
    """Inference, training and backward of tapes made elsewhere, on one network, two engine threads each."""
    fastrnn.set_num_threads(2)
    cases = [random_case(cell, 8, B, 5, 33, dtype="float32", num_layers=2, lengths=True, seed=k) for k, B in enumerate((1, 4, 17))]
    net = cases[0].net()

    def forward(case):
        return net(case.x, case.layer_state(), **case.given)

    def train(case):
        outputs, backward = net.vjp(case.x, case.layer_state(), **case.given)
        return outputs, backward, backward(case.dy, case.layer_dstate())

    want = [(forward(case), train(case)) for case in cases]

    def work(k):
        case, (outputs, (_, made_elsewhere, g)) = cases[k % 3], want[k % 3]
        for _ in range(5):
            y, state = forward(case)
            same_bits(y, outputs[0], "y")
            same_state(state, outputs[1])
            (y, state), _, mine = train(case)
            same_bits(y, outputs[0], "y of vjp")
            same_gradients(mine, g)
            same_gradients(made_elsewhere(case.dy, case.layer_dstate()), g, "a shared tape")
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(24)))


INTERRUPT = """
import signal, sys, time
import numpy as np
import fastrnn
signal.signal(signal.SIGINT, signal.default_int_handler)    # a shell lets what runs in the background ignore it

what, threads = sys.argv[1], int(sys.argv[2])
fastrnn.set_num_threads(threads)
net = fastrnn.LSTM(256, 256, seed=0)
small = np.ones((5, 2, 256), "float32")
want = net(small)[0].tobytes()
flat = net.flat.tobytes()
x = np.zeros((int(sys.argv[3]), 32, 256), "float32")
if what == "backward":
    (y, _), backward = net.vjp(x)
    call = lambda: backward(y)
elif what == "vjp":
    call = lambda: net.vjp(x)
else:
    call = lambda: net(x)
print("ready", flush=True)
try:
    start = time.perf_counter()
    call()
    print("done", time.perf_counter() - start, flush=True)
except KeyboardInterrupt:
    print("interrupted", time.monotonic(), flush=True)
    assert net(small)[0].tobytes() == want, "the layer changed"
    assert net.flat.tobytes() == flat
    (y, _), backward = net.vjp(small)
    backward(y)
    if what == "backward":
        backward.release()
    print("works", flush=True)
"""


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("what, T", [("forward", 6000), ("vjp", 4000), ("backward", 2500)])
def test_ctrl_c_ends_a_long_call_at_once_and_the_layer_works_on(what, T, threads):
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPT, what, str(threads), str(T)],
        env=processes.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        time.sleep(0.1)  # the call has begun
        sent = time.monotonic()
        process.send_signal(signal.SIGINT)
        word, *rest = process.stdout.readline().split()
        assert word == "interrupted", f"the call was over before the signal came, or did not hear it: {word} {rest}"
        assert float(rest[0]) - sent < 0.4
        assert process.stdout.readline() == "works\n", process.stderr.read()
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("threads", [1, 2])
def test_the_callers_floating_point_mode_is_unchanged(threads):
    """Denormals are flushed inside a call only: 1e-40 * 1 is still 1e-40 afterwards."""
    tiny = np.full(40, 1e-40, "float32")
    one = np.ones(40, "float32")
    case = random_case("lstm", 30, 64, 40, 33, dtype="float32")
    fastrnn.set_num_threads(threads)
    net = case.net()
    (y, _), backward = net.vjp(case.x)
    assert (tiny * one == tiny).all() and (tiny * one != 0).all()
    backward(case.dy)
    assert (tiny * one != 0).all()
    net.stream(64).step(case.x[0])
    assert (tiny * one != 0).all()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: (net(case.x), (tiny * one != 0).all())[1]).result()


@pytest.mark.torch
def test_a_caller_who_flushes_denormals_goes_on_flushing_them():
    code = """
import numpy as np, torch, fastrnn
assert torch.set_flush_denormal(True)
tiny, one = np.full(40, 1e-40, "float32"), np.ones(40, "float32")
assert not (tiny * one).any()
net = fastrnn.GRU(3, 5)
(y, _), backward = net.vjp(np.ones((4, 2, 3), "float32"))
backward(y)
assert not (tiny * one).any()
"""
    processes.output(code)


@pytest.mark.parametrize("cell", ["rnn_tanh", "gru", "lstm"])
def test_denormal_numbers_cost_nothing(cell):
    """A decaying state passes through the denormals; elsewhere that is 18 to 27 times slower. The bound leaves room for a busy machine."""
    case = random_case(cell, 100, 16, 32, 96, dtype="float32", seed=1)
    net = case.net()
    normal, tiny = case.x, np.full_like(case.x, 1e-41)
    with net.updating() as flat:
        flat *= 1e-3
    times = {"normal": [], "tiny": []}
    for _ in range(7):
        for name, x in (("normal", normal), ("tiny", tiny)):
            start = time.perf_counter()
            (y, _), backward = net.vjp(x)
            backward(x[:, :, :1] * y)
            times[name].append(time.perf_counter() - start)
    assert min(times["tiny"]) < 2 * min(times["normal"])


@pytest.mark.long
def test_memory_stays_flat_over_10_000_shapes_and_32_threads():
    code = """
import resource
from concurrent.futures import ThreadPoolExecutor
import numpy as np, fastrnn
net = fastrnn.LSTM(8, 24, 2, seed=0)
def work(k):
    T, B = 1 + k * 7 % 61, 1 + k * 11 % 37
    x = np.zeros((T, B, 8), "float32")
    net(x)
    (y, _), backward = net.vjp(x)
    backward(y)
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
with ThreadPoolExecutor(32) as pool:
    list(pool.map(work, range(3000)))
    first = peak()
    list(pool.map(work, range(3000, 13000)))
print(first, peak())
"""
    first, last = map(float, processes.output(code, timeout=600).split())
    assert last < 1.1 * first + 8, f"{first} MB grew to {last} MB"
