"""Threads: their number, fork, concurrent callers, Ctrl-C, and the floating-point mode of the caller."""

import math
import os
import re
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import processes
import pytest
from nets import CELLS, DTYPES, call, check_threads, random_case, same_bits, same_gradients, same_state

import fastrnn
from fastrnn import _engine


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
def test_the_environment_sets_the_initial_number_of_threads(variables, want):
    assert processes.output("import fastrnn; print(fastrnn.get_num_threads())", **variables).strip() == want


@pytest.mark.parametrize("name", ["FASTRNN_NUM_THREADS", "OMP_NUM_THREADS"])
@pytest.mark.parametrize(
    "value, want",
    [
        ("64", 64), ("65", 64), ("1000", 64), (str(2**31), 64), (str(2**63), 64), (str(10**12), 64),
        pytest.param("9" * 5000, 64, id="long"), (" 4 ", 4), ("007", 7), ("0", None), ("-1", None), ("1.5", None),
        ("\uff14", None), ("1e3", None), ("0x4", None), ("4,2", "list"), ("4,", None), ("4,x", None), ("4 2", None),
        ("+4", None), ("4_0", None), ("0,4", None), (",4", None),
    ],
)  # fmt: skip
def test_any_number_of_threads_in_the_environment_is_taken_bounded_or_refused(name, value, want):
    from fastrnn._core import threads as _threads

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        patch.delenv("FASTRNN_NUM_THREADS", raising=False)
        patch.setenv(name, value)
        if want == "list":
            want = 4 if name == "OMP_NUM_THREADS" else None
        if want is None:
            with pytest.raises(
                ValueError, match=f"^{name}={re.escape(value)}, but it must be a whole number of at least 1$"
            ):
                _threads._from_environment()
        else:
            assert _threads._from_environment() == want
    said = want == 64 and value != "64" and name == "FASTRNN_NUM_THREADS"
    assert [str(w.message).endswith(", but a call uses at most 64 threads: using 64") for w in caught] == [True] * said


@pytest.mark.parametrize("value", ["", " ", ","])
def test_an_empty_number_of_threads_is_none(value, monkeypatch):
    from fastrnn._core import threads as _threads

    monkeypatch.setenv("FASTRNN_NUM_THREADS", value)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert _threads._from_environment() == 3


def test_the_most_threads_are_those_of_the_engine():
    from fastrnn._core import threads as _threads

    source = (processes.ROOT / "src/threads.pxd").read_text()
    assert int(re.search(r"MAX_PARTS = (\d+)", source)[1]) == _threads.MAX_THREADS


@pytest.mark.parametrize("n", [65, 2**31 - 1, 2**31, 10**12, 2**63, pytest.param(10**5000, id="10**5000")])
def test_too_many_threads_are_reduced_with_a_warning(n):
    rnn, x = fastrnn.GRU(2, 40, seed=0), np.ones((3, 300, 2), "float32")
    want = rnn(x)[0]
    with pytest.warns(
        RuntimeWarning, match="^the number of threads is .*, but a call uses at most 64 threads: using 64$"
    ) as caught:
        fastrnn.set_num_threads(n)
    assert caught[0].filename == __file__ and fastrnn.get_num_threads() == 64
    fastrnn.set_num_threads(2)
    with pytest.warns(RuntimeWarning, match="at most 64 threads") as caught, fastrnn.threads(n):
        assert fastrnn.get_num_threads() == 64
        same_bits(rnn(x)[0], want)
    assert caught[0].filename == __file__ and fastrnn.get_num_threads() == 2


@pytest.mark.parametrize(
    "value, error",
    [(0, ValueError), (-1, ValueError), (1.5, TypeError), ("4", TypeError), (True, TypeError), (None, TypeError)],
)
def test_what_is_no_number_of_threads_is_refused(value, error):
    before = fastrnn.get_num_threads()
    for give in (lambda: fastrnn.set_num_threads(value), lambda: fastrnn.threads(value).__enter__()):
        with pytest.raises(error, match="^n is "):
            give()
    assert fastrnn.get_num_threads() == before


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "", "\uff14", "4,2", "4_0", "1e3"])
def test_a_wrong_threads_option_is_wrong_usage(value, run):
    status, out, err = run("train", f"--threads={value}")
    assert (status, out) == (2, "")
    message = f"argument --threads: {value!r} is not a whole number of at least 1"
    assert err == f"fastrnn train text: error: {message} (see fastrnn train text --help)\n"


@pytest.mark.parametrize(
    "value, want", [(" 4 ", 4), ("65", 65), pytest.param("9" * 5000, None, id="long"), (str(2**63), None)]
)
def test_a_threads_option_may_have_any_size(value, want):
    from fastrnn.cli import arguments

    threads = arguments.parse(["train", "--threads", value]).threads
    assert threads == want or (want is None and threads > 64)


def test_the_command_says_that_there_are_fewer_threads(run, tmp_path):
    (tmp_path / "text.txt").write_text("to be or not to be " * 40)
    status, _, err = run(
        "train",
        "--data",
        "text.txt",
        "--threads",
        10**12,
        "--epochs",
        1,
        "--hidden",
        4,
        "--layers",
        1,
        "--batch",
        4,
        "--quiet",
    )
    assert (
        status == 0
        and "fastrnn: warning: the number of threads is 1000000000000, but a call uses at most 64 threads: using 64\n"
        in err
    )


def test_a_layer_uses_all_threads_without_a_prior_query_of_their_number():
    code = "import fastrnn; fastrnn.LSTM; from fastrnn import _engine; print(_engine.current_threads())"
    assert processes.output(code, FASTRNN_NUM_THREADS="3").strip() == "3"


def test_by_default_there_are_no_more_threads_than_cpus():
    count = int(processes.output("import fastrnn; print(fastrnn.get_num_threads())"))
    assert 1 <= count <= len(os.sched_getaffinity(0))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no CPU affinity")
def test_a_process_bound_to_one_cpu_uses_one_thread():
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
        "import fastrnn; print(fastrnn.get_num_threads())"
    )
    assert processes.output(code).strip() == "1"


FORK = """
import multiprocessing, os, signal, sys, threading
import numpy as np
import fastrnn

fastrnn.set_num_threads(2)

def work(H):
    result = b""
    for B in (1, 33):
        x = np.random.default_rng(0).standard_normal((20, B, 24)).astype("float32")
        (y, _), backward = fastrnn.GRU(24, H, seed=0).vjp(x)
        result += y.tobytes() + backward(np.ones_like(y)).flat.tobytes()
    return result

def check_child(H, want):
    child = os.fork()
    if not child:
        signal.alarm(30)
        os._exit(0 if work(H) == want else 1)
    assert os.waitpid(child, 0)[1] == 0, H

if __name__ == "__main__":
    sizes = [6, 90, 128, 512]
    want = {H: work(H) for H in sizes}             # the team runs before the fork
    if sys.argv[1] == "os.fork":
        for H in sizes:
            check_child(H, want[H])
            assert work(H) == want[H], "the parent after a fork"
    elif sys.argv[1] == "os.fork in a call":       # of another thread, which holds the team
        calls, over = [], threading.Event()
        def keep_calling():
            while not over.is_set():
                calls.append(work(512) == want[512])
        other = threading.Thread(target=keep_calling)
        other.start()
        try:
            for H in sizes * 5:
                check_child(H, want[H])
        finally:
            over.set()
            other.join()
        assert all(calls)
    else:
        with multiprocessing.get_context(sys.argv[1]).Pool(3) as pool:
            assert pool.map_async(work, sizes * 3).get(timeout=90) == [want[H] for H in sizes * 3]
    print("finished")
"""


def check_script(tmp_path, text, argument):
    """Run it from a file, as multiprocessing requires."""
    script = tmp_path / "script.py"
    script.write_text(text)
    done = subprocess.run(
        [sys.executable, script, argument], env=processes.environment(), capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == "finished", done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("how", ["os.fork", "os.fork in a call", "fork", "spawn"])
def test_processes_started_after_use_finish_with_the_same_bits(how, tmp_path):
    check_script(tmp_path, FORK, how)


JOBLIB = """
import sys
from joblib import Parallel, delayed

def work(H):
    import numpy as np, fastrnn                    # a loky worker has no globals of this file
    fastrnn.set_num_threads(2)
    result = b""
    for B in (1, 33):
        x = np.random.default_rng(0).standard_normal((20, B, 24)).astype("float32")
        (y, _), backward = fastrnn.LSTM(24, H, seed=0).vjp(x)
        result += y.tobytes() + backward(np.ones_like(y)).flat.tobytes()
    return result

if __name__ == "__main__":
    sizes = [6, 90, 128, 512] * 3
    want = [work(H) for H in sizes]
    assert Parallel(n_jobs=3, backend=sys.argv[1], timeout=90)(delayed(work)(H) for H in sizes) == want
    print("finished")
"""


@pytest.mark.joblib
@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_joblib_finishes_with_the_same_bits(backend, tmp_path):
    check_script(tmp_path, JOBLIB, backend)


@pytest.mark.parametrize("cell", CELLS)
def test_many_python_threads_calling_one_object_get_the_same_bits(cell):
    """Inference, training and backward of tapes made elsewhere, on one network, with two engine threads each."""
    fastrnn.set_num_threads(2)
    cases = [
        random_case(cell, 8, B, 5, 33, dtype="float32", num_layers=2, lengths=True, seed=k)
        for k, B in enumerate((1, 4, 17))
    ]
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


CALLERS = """
from concurrent.futures import ThreadPoolExecutor
import numpy as np, fastrnn
fastrnn.set_num_threads(2)
def case(make, B, H):
    net, x = make(24, H, seed=0), np.random.default_rng(0).standard_normal((20, B, 24)).astype("float32")
    def run():
        (y, _), backward = net.vjp(x)
        return net(x)[0].tobytes() + y.tobytes() + backward(y).flat.tobytes() + net.stream(B).run(x).tobytes()
    return run
cases = [case(make, B, H) for make in (fastrnn.LSTM, fastrnn.GRU) for B, H in ((1, 256), (1, 16), (3, 130), (33, 90))]
with fastrnn.threads(1):
    want = [run() for run in cases]
def work(n):
    with fastrnn.threads(n):
        for k in range(40):
            assert cases[k % 8]() == want[k % 8], (n, k % 8)
with ThreadPoolExecutor(4) as pool:
    for group in ([2, 2], [2, 2, 1, 3]):
        list(pool.map(work, group))
print("finished")
"""


def test_callers_at_the_same_time_with_two_threads_each_get_the_same_bits():
    assert processes.output(CALLERS).strip() == "finished"


@pytest.mark.parametrize("split", ["rows", "units", None])
def test_calls_give_the_same_bits_while_other_processes_are_busy(split):
    """Workers are delayed in the middle of a sequence, so callers continue without them and then use one thread."""
    rng = np.random.default_rng(0)
    layers = [getattr(fastrnn, kind)(24, 64, seed=0) for kind in ("LSTM", "GRU", "RNN")] + [
        fastrnn.GRU(24, 64, reset_after=False, seed=0)
    ]
    x, dy = rng.standard_normal((90, 9, 24)).astype("float32"), rng.standard_normal((90, 9, 64)).astype("float32")

    def results(net):
        (y, _), backward = net.vjp(x)
        g = backward(dy)
        return y.tobytes() + g.flat.tobytes() + g.x.tobytes() + net(x)[0].tobytes()

    with fastrnn.threads(1):
        wanted = [results(net) for net in layers]
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3)]
    try:
        _engine.force_split(split)
        for _ in range(12):
            for net, bits in zip(layers, wanted, strict=True):
                with fastrnn.threads(2):
                    assert results(net) == bits, net
    finally:
        _engine.force_split(None)
        for process in busy:
            process.kill()
            process.wait()


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("meeting", [1, 2, 3, 8])
def test_a_caller_that_leaves_the_others_in_the_middle_changes_no_bit(cell, meeting):
    case = random_case(cell, 9, 5, 6, 40, dtype="float32", lengths=True, resets=True)

    def results(threads):
        with fastrnn.threads(threads):
            net = case.net()
            (y, state), backward = net.vjp(case.x, case.layer_state(), **case.given)
            g = backward(case.dy, case.layer_dstate())
            return b"".join([y.tobytes(), g.flat.tobytes(), g.x.tobytes(), call(net, case)[0].tobytes()])

    wanted = results(1)
    _engine.force_split("units")
    _engine.force_leave(meeting)
    try:
        for _ in range(3):
            assert results(2) == wanted
    finally:
        _engine.force_leave(0)
        _engine.force_split(None)


def test_the_configuration_says_whether_calls_are_divided(capsys, monkeypatch):
    from fastrnn._core.config import config

    assert set(config()["threads_paused"]) == {"seconds", "failures"}
    with fastrnn.threads(2):
        for state, said in (
            ((0.0, 0), "calls are divided among them; no call has waited"),
            ((0.0, 1), "calls are divided among them; 1 call waited for a core"),
            ((0.25, 3), "calls use one thread for the next 250 ms: 3 calls waited"),
        ):
            monkeypatch.setattr(_engine, "threads_paused", lambda state=state: state)
            fastrnn.show_config()
            assert said in capsys.readouterr().out
    with fastrnn.threads(1):
        fastrnn.show_config()
    assert "divided" not in capsys.readouterr().out


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or not os.path.isdir("/proc/self/task"),
    reason="this system has no CPU affinity",
)
@pytest.mark.parametrize("started", [False, True], ids=["before the first call", "after it"])
@pytest.mark.parametrize("B, calls", [(1, 200), (32, 40)])
def test_on_a_single_cpu_two_threads_are_not_much_slower_than_one(B, calls, started):
    """A waiting thread must yield the CPU: spinning for a time slice at every step would be 100 times slower."""
    code = """
import os, sys, time
import numpy as np, fastrnn
B, calls, started = map(int, sys.argv[1:])
net = fastrnn.LSTM(256, 256, seed=0)
x = np.random.default_rng(0).standard_normal((20, B, 256)).astype("float32")
if started:
    with fastrnn.threads(2):
        net(np.ones((20, 1, 256), "float32"))
        net(np.ones((20, 32, 256), "float32"))
for thread in os.listdir("/proc/self/task"):
    os.sched_setaffinity(int(thread), {min(os.sched_getaffinity(0))})
def run(n):
    with fastrnn.threads(n):
        result = net(x)[0].tobytes()
        start = time.perf_counter()
        for _ in range(calls):
            net(x)
        return time.perf_counter() - start, result
one, two = zip(*((run(1), run(2)) for _ in range(3)))
assert len({bits for _, bits in one + two}) == 1
print(min(one)[0], min(two)[0])
"""
    one, two = map(float, processes.output(code, B, calls, int(started)).split())
    assert two < 3 * one, f"{calls} calls: {1e3 * one:.0f} ms on one thread, {1e3 * two:.0f} ms on two"


def small_batch(cell, B, H, dtype, *, T=None, ragged=False):
    """Return a network with too few rows to divide them among threads, and enough steps that the work is worth it."""
    more = {"lengths": B > 1, "resets": True, "context": 3, "num_layers": 2, "bidirectional": True} if ragged else {}
    gates = {"lstm": 4, "rnn_tanh": 1}.get(cell, 3)
    T = T or math.ceil(WORTH_SPLITTING * (1.5 if ragged else 1) / (2 * B * gates * H * (H + 24)))
    case = random_case(cell, T, B, 24, H, dtype=dtype, **more)
    if ragged:
        case.given["lengths"] = np.array([T, *range(T - 1, 0, -max(1, T // 5))][:B])
    return case


WORTH_SPLITTING = 4.5e6  # floating-point operations; the engine divides work from 4e6 on


@pytest.mark.parametrize("ragged", [False, True], ids=["full", "ragged"])
@pytest.mark.parametrize("B, H", [(1, 48), (1, 90), (1, 128), (1, 256), (3, 72)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", ["rnn_tanh", "gru", "gru_before", "lstm"])
def test_a_small_batch_does_not_depend_on_the_thread_count_bit_for_bit(cell, dtype, B, H, ragged, isa):
    check_threads(small_batch(cell, B, H, dtype, ragged=ragged))
    check_threads(small_batch(cell, B, H, dtype, T=5, ragged=ragged))


@pytest.mark.parametrize("cell", ["rnn_tanh", "gru", "gru_before", "lstm"])
def test_a_stream_does_not_depend_on_the_thread_count_bit_for_bit(cell, isa):
    case = small_batch(cell, 1, 200, "float32")
    with fastrnn.threads(1):
        want = call(case.net(), case)[0]
    for n in (1, 2, 3, 5):
        with fastrnn.threads(n):
            stream = case.net().stream()
            stream.state = case.layer_state()
            half = len(want) // 2
            y = [stream.run(case.x[:half])] + [stream.step(x)[None] for x in case.x[half:]]
        same_bits(np.concatenate(y), want, f"{n} threads")


@pytest.fixture(params=["rows", "units"])
def split(request):
    """Small batches are divided too, by rows or by units of the hidden state."""
    _engine.force_split(request.param)
    yield request.param
    _engine.force_split(None)


@pytest.mark.parametrize("B, H", [(1, 5), (3, 40), (7, 100)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", ["rnn_relu", "gru", "gru_before", "lstm"])
def test_rows_or_units_may_be_split_without_changing_a_bit(cell, dtype, B, H, split, isa):
    for bidirectional, more in ((False, {}), (True, {"lengths": True, "resets": True, "context": 3})):
        check_threads(
            random_case(cell, 9, B, 7, H, dtype=dtype, num_layers=2, bidirectional=bidirectional, **more), counts=(2, 3)
        )


@pytest.mark.parametrize(
    "cell", [cell for cell in CELLS if cell not in ("rnn_tanh", "rnn_relu", "gru", "gru_before", "lstm")]
)
def test_cells_with_options_may_be_split_without_changing_a_bit(cell, split, isa):
    for bidirectional, more in ((False, {}), (True, {"lengths": True, "resets": True, "context": 3})):
        check_threads(
            random_case(cell, 9, 3, 7, 40, dtype="float32", num_layers=2, bidirectional=bidirectional, **more),
            counts=(2, 3),
        )


@pytest.mark.parametrize("cell", CELLS)
def test_a_stream_may_be_split_without_changing_a_bit(cell, split):
    case = random_case(cell, 9, 3, 7, 40, dtype="float32", num_layers=2)
    with fastrnn.threads(1):
        want = call(case.net(), case)[0]
    with fastrnn.threads(2):
        stream = case.net().stream(3)
        stream.state = case.layer_state()
        same_bits(np.concatenate([stream.run(case.x[:5]), *(stream.step(x)[None] for x in case.x[5:])]), want, split)


@pytest.mark.parametrize("lengths", [False, True], ids=["full", "ragged"])
@pytest.mark.parametrize("B", [1, 5, 12])
@pytest.mark.parametrize("cell", ["rnn_tanh", "gru", "gru_before", "lstm"])
def test_directions_and_layers_side_by_side_change_no_bit(cell, B, lengths):
    for num_layers, bidirectional in ((3, False), (1, True), (2, True)):
        check_threads(
            random_case(
                cell,
                220,
                B,
                20,
                90,
                dtype="float32",
                num_layers=num_layers,
                bidirectional=bidirectional,
                lengths=lengths,
            )
        )


SIGNALS = """
import os, signal
import numpy as np
import fastrnn

fastrnn.set_num_threads(2)
fastrnn.LSTM(64, 128)(np.zeros((50, 32, 64), "float32"))
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
os.kill(os.getpid(), signal.SIGUSR1)
print(signal.sigwait({signal.SIGUSR1}) == signal.SIGUSR1)
"""


def test_workers_leave_signals_to_the_programs_own_threads():
    assert processes.output(SIGNALS, OPENBLAS_NUM_THREADS="1").strip() == "True"  # NumPy's own threads handle signals


INTERRUPT = """
import signal, sys, time
import numpy as np
import fastrnn
signal.signal(signal.SIGVTALRM, signal.default_int_handler)    # as Ctrl-C, but after some processor time

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
start = time.process_time()
signal.setitimer(signal.ITIMER_VIRTUAL, 0.1)
try:
    call()
    print("done", time.process_time() - start)
except KeyboardInterrupt:
    print("interrupted", time.process_time() - start)
    assert net(small)[0].tobytes() == want, "the layer changed"
    assert net.flat.tobytes() == flat
    (y, _), backward = net.vjp(small)
    backward(y)
    if what == "backward":
        backward.release()
"""


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("what, T", [("forward", 6000), ("vjp", 4000), ("backward", 2500)])
def test_ctrl_c_ends_a_long_call_at_once_and_the_layer_works_on(what, T, threads):
    word, seconds = processes.output(INTERRUPT, what, threads, T).split()
    assert word == "interrupted", f"the call ended first, after {seconds} s of processor time"
    assert float(seconds) < 0.1 + 0.4 * threads


@pytest.mark.parametrize("threads", [1, 2])
def test_the_callers_floating_point_mode_is_unchanged(threads):
    """Denormals are flushed only inside a call: 1e-40 * 1 is still 1e-40 afterwards."""
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
def test_a_caller_that_flushes_denormals_still_flushes_them_after_a_call():
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
    """A decaying state becomes denormal; without flushing, steps are 18 to 27 times slower."""
    case = random_case(cell, 100, 16, 32, 96, dtype="float32", seed=1)
    net = case.net()
    normal, tiny = case.x, np.full_like(case.x, 1e-41)
    with net.updating() as flat:
        flat *= 1e-3
    times = {"normal": [], "tiny": []}
    for _ in range(15):
        for name, x in (("normal", normal), ("tiny", tiny)):
            start = time.perf_counter()
            (y, _), backward = net.vjp(x)
            backward(x[:, :, :1] * y)
            times[name].append(time.perf_counter() - start)
    assert min(times["tiny"]) < 4 * min(times["normal"])


MEMORY = """
import mmap, os
def memory():
    if "tsan" in os.environ.get("LD_PRELOAD", ""):    # ThreadSanitizer's own memory grows with the calls
        return 0.0
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * mmap.PAGESIZE / 2**20
"""
statm = pytest.mark.skipif(
    not os.path.exists("/proc/self/statm") or "asan" in os.environ.get("LD_PRELOAD", ""),
    reason="the resident memory is unknown on this system, or the address sanitizer keeps freed memory",
)


@statm
@pytest.mark.parametrize("count", [2_000, pytest.param(10_000, marks=pytest.mark.long)])
def test_32_python_threads_of_small_calls_get_the_same_bits_and_memory_stays_flat(count):
    """In each thread, `count` calls of a shared layer, and `count` steps of the thread's own stream."""
    code = f"""
from concurrent.futures import ThreadPoolExecutor
import numpy as np, fastrnn
{MEMORY}
fastrnn.set_num_threads(2)
net = fastrnn.LSTM(16, 16, seed=0)
x = np.random.default_rng(0).standard_normal((4, 1, 16)).astype("float32")
want = net(x)[0].tobytes()
def work(n):
    stream, steps = net.stream(), bytearray()
    for k in range(n):
        assert net(x)[0].tobytes() == want, "a call"
        steps += stream.step(x[k % 4]).tobytes()
        if k % 4 == 3:
            assert steps == want, "steps of a stream"
            steps.clear()
            stream.reset()
with ThreadPoolExecutor(32) as pool:
    list(pool.map(work, [400] * 32))
    first = memory()
    list(pool.map(work, [{count}] * 32))
    print(first, memory())
"""
    first, last = map(float, processes.output(code, timeout=300).split())
    assert last < first + 8, f"{first} MB grew to {last} MB"


@statm
@pytest.mark.parametrize("count", [600, pytest.param(10_000, marks=pytest.mark.long)])
def test_memory_stays_flat_over_random_shapes(count):
    code = f"""
import numpy as np, fastrnn
{MEMORY}
fastrnn.set_num_threads(2)
rng = np.random.default_rng(0)
net = fastrnn.LSTM(8, 24, 2, seed=0)
def work(T, B):
    x = np.zeros((T, B, 8), "float32")
    net(x, lengths=rng.integers(0, T + 1, B))
    (y, _), backward = net.vjp(x)
    backward(y)
    net.stream(B).run(x)
for T, B in [*rng.integers(1, 61, (200, 2)), *[(60, 60)] * 6]:
    work(T, B)
first = memory()
for T, B in rng.integers(1, 61, ({count}, 2)):
    work(T, B)
print(first, memory())
"""
    first, last = map(float, processes.output(code, timeout=300).split())
    assert last < first + 8, f"{first} MB grew to {last} MB"


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


@pytest.mark.parametrize(
    "T, B", [(1, 64), (1, 65), (300, 1), (700, 1), (9, 31), (6, 200), (1, 1023), (2, 1024), (2, 1025), (1, 2300)]
)
@pytest.mark.parametrize("cell", ["RNN", "GRU", "LSTM"])
def test_products_of_a_chunk_have_the_same_bits_on_any_number_of_threads(cell, T, B):
    """The weight gradients, the sums and dx of up to 1,024 rows are one task; more rows are several tasks.

    Up to 64 rows the built-in product is used, elsewhere BLAS if the processor has no AVX-512.
    """
    H = {"RNN": 150, "GRU": 90, "LSTM": 70}[cell]  # more rows of a gradient than one tile of BLAS, and a part of one
    net = getattr(fastrnn, cell)(37, H, seed=0)
    rng = np.random.default_rng(1)
    x, dy = rng.standard_normal((T, B, 37)).astype("float32"), rng.standard_normal((T, B, H)).astype("float32")
    lengths = rng.integers(0, T + 1, B)
    for options in ({}, {"lengths": lengths}):
        found = []
        for n in (1, 2, 3):
            with fastrnn.threads(n):
                g = net.vjp(x, **options)[1](dy, need_x=True)
            found.append([g.x, *g.params.values()])
        for other in found[1:]:
            for a, b in zip(found[0], other, strict=True):
                np.testing.assert_array_equal(a, b)
    wide = getattr(fastrnn, cell)(37, H, seed=0, dtype="float64")
    wide.load_state_dict({name: p.astype("float64") for name, p in net.params.items()})
    want = wide.vjp(x.astype("float64"))[1](dy.astype("float64"))
    with fastrnn.threads(2):
        g = net.vjp(x)[1](dy)
    for name, value in want.params.items():
        np.testing.assert_allclose(g.params[name], value, atol=2e-4 * np.abs(value).max(), err_msg=name)
    np.testing.assert_allclose(g.x, want.x, atol=2e-4 * np.abs(want.x).max())
