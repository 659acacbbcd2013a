"""Short calls: layers and adapters give the bits of the general way, on both sides of each threshold."""

import copy
import pickle
import re
import threading
import tracemalloc
import weakref

import numpy as np
import pytest
from nets import same_bits, same_state

import fastrnn
from fastrnn import _engine
from fastrnn._core import short_calls
from fastrnn._core.short_calls import MOST_ROWS, MOST_SEQUENCES, MOST_STATE_BYTES, MOST_WORK, ShortCalls


@pytest.fixture
def runs(monkeypatch):
    """The shapes of x of all calls that a stream computes."""
    seen, run = [], ShortCalls.run
    monkeypatch.setattr(
        ShortCalls, "run", lambda self, stream, x, state: seen.append(x.shape) or run(self, stream, x, state)
    )
    return seen


def check(net, T, B, state=None):
    """Three calls, of which the first is never by a stream; `vjp` never is either."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((B, T, net.input_size) if net.batch_first else (T, B, net.input_size)).astype(net.dtype)
    (y, state_n), _ = net.vjp(x, state)
    for _ in range(3):
        got, got_state = net(x, state)
        same_bits(got, y)
        same_state(got_state, state_n)


def layer(kind="LSTM", **options):
    return getattr(fastrnn, kind)(3, 4, seed=0, **options)


CASES = [
    # rows: any number of layers
    (lambda: layer(num_layers=2), 1, MOST_ROWS, True),
    (lambda: layer(num_layers=2), MOST_ROWS // 4, 4, True),
    (lambda: layer(num_layers=2), MOST_ROWS // 4 + 1, 4, False),
    (lambda: layer(num_layers=2), 1, MOST_ROWS + 1, False),
    # one layer: more steps, if the sequences are few
    (lambda: layer(), MOST_ROWS // MOST_SEQUENCES + 1, MOST_SEQUENCES, True),
    (lambda: layer(), MOST_ROWS // MOST_SEQUENCES + 1, MOST_SEQUENCES + 1, False),
    (lambda: fastrnn.RNN(1000, 1000), MOST_WORK // 2_000_000, 1, True),
    (lambda: fastrnn.RNN(1000, 1000), MOST_WORK // 2_000_000 + 7, 1, False),
    # the memory of a stream
    (lambda: fastrnn.RNN(1, MOST_STATE_BYTES // 4 // 128), 1, 128, True),
    (lambda: fastrnn.RNN(1, MOST_STATE_BYTES // 4 // 128), 1, 129, False),
    # nothing to compute
    (lambda: layer(), 0, 3, False),
    (lambda: layer(), 3, 0, False),
    # outputs that depend on later steps
    (lambda: layer(bidirectional=True), 1, 1, False),
    (lambda: layer(reverse=True), 1, 1, False),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(CASES)))
def test_a_call_is_short_up_to_each_threshold(case, runs):
    make, T, B, is_short = CASES[case]
    check(make(), T, B)
    assert len(runs) == (2 if is_short else 0)


KINDS = [
    layer("RNN"),
    layer("RNN", bias=False),
    layer("GRU"),
    layer("GRU", reset_after=False),
    layer("GRU", dtype="float64"),
    layer("GRU", batch_first=True),
    layer("LSTM", num_layers=3),
    layer("LSTM", proj_size=2),
    layer("LSTM", peephole=True, clip=1.0),
    layer("LSTM", learn_initial_state=True),
    fastrnn.GRU(0, 4, seed=0),
]


@pytest.mark.parametrize("net", KINDS, ids=repr)
def test_every_kind_of_layer_gives_the_same_bits(net, runs):
    if net.learn_initial_state:
        net.load_state_dict(dict(net.params) | {"h_0": np.full((1, 4), 0.5, "float32")})
    check(net, 3, 2)
    sizes = [np.full((net.num_layers, 2, n), 0.25, net.dtype) for n in net.state_sizes]
    check(net, 3, 2, tuple(sizes) if net.cell.has_c else sizes[0])
    assert len(runs) == 5


def test_calls_with_more_than_a_state_are_not_short(runs):
    net, x = layer(context_size=2), np.ones((3, 2, 3), "float32")
    for _ in range(3):
        net(x, context=np.ones((2, 2), "float32"))
    net = layer()
    for _ in range(3):
        net(x, lengths=[3, 1])
        net(x, mask=np.array([[1, 0], [1, 1], [0, 1]], bool))
        net(x, resets=np.array([[0, 0], [1, 0], [0, 0]], bool))
        net(x, return_states=True)
        net(x, check_finite=True)
    assert not runs
    net(x, lengths=[3, 3])
    net(x, mask=np.ones((3, 2), bool))
    assert len(runs) == 1


@pytest.mark.parametrize("net", KINDS, ids=repr)
def test_after_short_calls_arguments_are_checked_as_in_the_first(net):
    I, dtype, refused = net.input_size, net.dtype, 0
    for _ in range(3):
        net(np.ones((3, 2, I) if net.batch_first else (2, 3, I), dtype))
    given = [np.ones((2, 3, I + 1), dtype), np.ones((2, 3, I), "f4" if dtype == "f8" else "f8"), np.ones((1, 2, 3, I))]
    given += [np.ones((2, 3, I), "i4"), None, np.ma.ones((2, 3, I), dtype), np.ones((2, I), dtype)]
    given += [np.ones((I, 3, 2), dtype).transpose(2, 1, 0), np.ones((2, 3, I), dtype).view(np.memmap)]
    for x in given:
        try:
            want, _ = net.vjp(x)
        except (TypeError, ValueError) as error:
            refused += 1
            with pytest.raises(type(error), match=f"^{re.escape(str(error))}$"):
                net(x)
        else:
            for one, other in zip(net(x), want):
                same_state(one, other)
    assert 5 <= refused < len(given)


def test_changed_weights_count_from_the_next_call_on(runs):
    net, x = layer(), np.ones((3, 2, 3), "float32")
    before = [net(x)[0] for _ in range(2)]
    with net.updating() as flat:
        flat *= 2
    check(net, 3, 2)
    assert not np.array_equal(net(x)[0], before[0]) and len(runs) == 4


def test_streams_that_a_thread_made_of_former_weights_are_not_used():
    net, x = layer(), np.ones((2, 3, 3), "f")
    for _ in range(3):
        net(x)
    former = net._short_for
    with net.updating() as flat:
        flat *= 0.5
    want, _ = net.vjp(x)
    net._short_for = former  # as by a thread whose call began before the update
    same_state(net(x)[1], want[1])


def test_a_copy_and_a_pickled_layer_have_streams_of_their_own(runs):
    net = layer()
    check(net, 3, 2)
    for other in (copy.deepcopy(net), net.copy(), pickle.loads(pickle.dumps(net))):
        check(other, 3, 2)
    assert len(runs) == 8


@pytest.mark.skipif(len(_engine.available_isas()) < 2, reason="this CPU has one instruction set only")
def test_no_stream_is_made_of_weights_packed_for_another_instruction_set(runs):
    net, kept = layer(), _engine.isa()
    calls = net._short_calls(net._packed())
    assert calls.take(3, 2) is None  # the first call
    _engine.set_isa(next(isa for isa in _engine.available_isas() if isa != kept))
    try:
        assert calls.take(3, 2) is None
        check(net, 3, 2)
        assert len(runs) == 2
    finally:
        _engine.set_isa(kept)
    assert calls.take(3, 2) is not None


def test_batch_sizes_in_turn_keep_their_streams():
    net = layer()
    calls = net._short_calls(net._packed())
    for B in (1, 2, 3) * 3:
        check(net, 2, B)
    streams = {id(stream) for stream in calls._streams}
    for B in (1, 2, 3) * 3:
        check(net, 2, B)
    assert {id(stream) for stream in calls._streams} == streams and len(streams) == 3
    for B in range(4, 20):
        check(net, 2, B)
    assert len(calls._streams) == short_calls.KEPT


def test_many_threads_share_a_layer():
    net, wrong = layer(num_layers=2), []
    xs = [np.random.default_rng(k).standard_normal((4, 1 + k % 3, 3)).astype("float32") for k in range(8)]
    want = [net.vjp(x)[0] for x in xs]

    def call(x, y, state):
        for _ in range(200):
            got, got_state = net(x)
            if not (np.array_equal(got, y) and all(map(np.array_equal, got_state, state))):
                wrong.append(x.shape)

    threads = [threading.Thread(target=call, args=(x, y, state)) for x, (y, state) in zip(xs, want)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(("T", "B", "is_short"), [(1, MOST_ROWS, True), (1, MOST_ROWS + 1, False), (0, 1, False)])
def test_torch_modules_use_it(T, B, is_short, runs):
    torch = pytest.importorskip("torch")
    import fastrnn.torch

    module = fastrnn.torch.GRU(3, 4, 2)
    x = torch.randn(T or 3, B, 3)[:, : B if T else 0]
    want, want_state = module(x)  # with gradients: never by a stream
    with torch.no_grad():
        for _ in range(3):
            y, h_n = module(x)
            assert torch.equal(y, want) and torch.equal(h_n, want_state)
    assert len(runs) == (2 if is_short else 0)


@pytest.mark.parametrize(("B", "is_short"), [(MOST_SEQUENCES, True), (MOST_SEQUENCES + 1, False)])
def test_onnx_models_use_it(B, is_short, monkeypatch):
    pytest.importorskip("onnx")
    import fastrnn.onnx

    taken, take = [], ShortCalls.take
    monkeypatch.setattr(ShortCalls, "take", lambda self, *sizes: taken.append(take(self, *sizes)) or taken[-1])
    net = layer("GRU")
    x, h = np.ones((MOST_ROWS // B + 2, B, 3), "float32"), np.zeros((1, B, 4), "float32")
    (y, h_n), _ = net.vjp(x, h)
    model = fastrnn.onnx.export(net, lengths=False, verify=False)
    rep = fastrnn.onnx.prepare(model)
    for _ in range(3):
        got, got_h = rep.run([x, h])
        same_bits(got, y)
        same_bits(got_h, h_n)
    assert any(stream is not None for stream in taken) == is_short


def test_an_onnx_model_that_is_one_node_uses_it():
    onnx = pytest.importorskip("onnx")
    import fastrnn.onnx
    from fastrnn.onnx import _write

    net, B = layer("LSTM"), 2
    weights = dict(zip("WRB", _write.tensors(net, 0)))
    node = onnx.helper.make_node("LSTM", ["X", *weights], ["Y", "Y_h", "Y_c"], hidden_size=4)
    graph = onnx.helper.make_graph(
        [node], "g", [onnx.helper.make_tensor_value_info("X", onnx.TensorProto.FLOAT, ["T", "B", 3])],
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in node.output],
        [onnx.numpy_helper.from_array(np.ascontiguousarray(a), name) for name, a in weights.items()],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 14)], ir_version=8)
    rep = fastrnn.onnx.prepare(model)
    for T in (1, 5):
        x = np.random.default_rng(T).standard_normal((T, B, 3)).astype("float32")
        (y, state_n), _ = net.vjp(x)
        for _ in range(3):
            got, *got_state = rep.run([x])
            same_bits(got, y[:, None])
            same_state(tuple(got_state), state_n)
    calls = rep._direct.short_calls
    assert calls.take(1, B) is not None and calls.take(MOST_WORK // (16 * 7) // B + 1, B) is None


def test_a_stream_takes_no_memory_for_layers_it_does_not_have():
    """The outputs of all steps of a chunk are only kept between layers; one layer has none to keep."""
    sizes = []
    for layers in (1, 2, 3):
        net = fastrnn.RNN(1, 256, layers, seed=0)
        net(np.zeros((1, 128, 1), np.float32))  # packs the weights
        tracemalloc.start()
        stream = net.stream(128)
        sizes.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        x = np.random.default_rng(0).standard_normal((70, 128, 1)).astype(np.float32)
        same_bits(stream.run(x), net.vjp(x)[0][0])
    between = 64 * 128 * 256 * 4  # CHUNK_STEPS, B, H, bytes of a float32
    assert sizes[0] < between / 2
    assert between < sizes[1] < 1.5 * between
    assert 2 * between < sizes[2] < 2.5 * between


def test_a_call_without_memory_for_a_stream_takes_the_general_way(monkeypatch):
    net, x = fastrnn.GRU(3, 5, seed=0), np.ones((4, 2, 3), np.float32)
    want = net.vjp(x)[0]
    asked = []

    def refuse(*_):
        asked.append(1)
        raise MemoryError

    monkeypatch.setattr(_engine, "Stream", refuse)
    for _ in range(3):
        y, h_n = net(x)
        same_bits(y, want[0])
        same_bits(h_n, want[1])
    assert len(asked) == 2


def test_streams_of_former_weights_are_not_kept():
    net, x = fastrnn.LSTM(3, 5, seed=0), np.ones((4, 2, 3), np.float32)
    net(x), net(x)
    streams = weakref.ref(net._short_for[1])
    with net.updating() as flat:
        flat *= 0.5
    net.vjp(x)
    assert streams() is None
