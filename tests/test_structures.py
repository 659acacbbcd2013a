"""The laws of docs/design.md §2, bit for bit: per cell, per instruction set, on one to five threads."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nets import (
    CELLS,
    Case,
    as_state,
    as_tuple,
    call,
    check_threads,
    features,
    gradients,
    random_case,
    same_bits,
    same_gradients,
    same_state,
)

import fastrnn


@pytest.fixture(params=CELLS)
def cell(request):
    return request.param


DTYPE = st.sampled_from(["float32", "float64"])
SIZES = st.fixed_dictionaries(  # around one, two and three vectors, and around a tile of rows
    {
        "T": st.integers(1, 8),
        "B": st.one_of(st.integers(1, 9), st.integers(10, 40)),
        "I": st.integers(0, 20),
        "H": st.one_of(st.integers(1, 20), st.sampled_from([31, 32, 33, 48, 63, 65, 80])),
    }
)
OPTIONS = st.fixed_dictionaries(
    {
        "lengths": st.booleans(),
        "resets": st.booleans(),
        "context": st.sampled_from([0, 3]),
        "num_layers": st.integers(1, 2),
        "bidirectional": st.booleans(),
    }
)
FORWARD_ONLY = OPTIONS.map(lambda o: {**o, "bidirectional": False})
LARGE = {"T": 60, "B": 9, "I": 40, "H": 66}  # more than one chunk of steps: 60*9*66*4 gates are 570 KB


def rows_of(case, rows):
    """Return the same network with only these batch rows."""
    given = {k: v[:, rows] if k == "resets" else v[rows] for k, v in case.given.items()}
    state = None if case.state is None else tuple(s[:, rows] for s in case.state)
    return Case(
        case.cell,
        case.dtype,
        case.options,
        case.params,
        case.x[:, rows],
        state,
        given,
        case.dy[:, rows],
        tuple(d[:, rows] for d in case.dstate),
    )


def steps_of(case, steps, state):
    """Return the same network with only these steps, from another state. Lengths cannot be cut."""
    given = {k: v[steps] if k == "resets" else v for k, v in case.given.items()}
    return Case(
        case.cell, case.dtype, case.options, case.params, case.x[steps], state, given, case.dy[steps], case.dstate
    )


def check_rows(case, rng):
    net = case.net()
    y, state_n = call(net, case)
    B = case.x.shape[1]
    for rows in ([rng.integers(B)], rng.permutation(B)[: 1 + B // 2], rng.permutation(B)):
        part_y, part_state = call(net, rows_of(case, rows))
        same_bits(part_y, y[:, rows], "y of some rows alone")
        same_state(part_state, as_state([s[:, rows] for s in as_tuple(state_n)]))


@given(sizes=SIZES, options=OPTIONS, dtype=DTYPE)
def test_a_batch_row_does_not_see_the_other_rows_bit_for_bit(cell, isa, sizes, options, dtype):
    """Neither their values, their number nor their order matters."""
    check_rows(random_case(cell, **sizes, dtype=dtype, **options), np.random.default_rng(0))


def test_a_row_of_a_large_batch_does_not_see_the_other_rows_bit_for_bit(cell, isa):
    check_rows(random_case(cell, **LARGE, dtype="float32", num_layers=2, lengths=True), np.random.default_rng(0))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("H", [35, 150])
def test_every_batch_size_from_1_to_65_gives_a_row_the_same_bits(cell, isa, dtype, H):
    case = random_case(cell, 3, 65, 5, H, dtype=dtype)
    net = case.net()
    y, _ = call(net, case)
    for B in range(1, 66):
        same_bits(call(net, rows_of(case, np.arange(B)))[0], y[:, :B], f"y of {B} rows")


@given(sizes=SIZES, options=OPTIONS, dtype=DTYPE)
def test_padding_is_not_read_bit_for_bit(cell, isa, sizes, options, dtype):
    """The content and the amount of data beyond a row's length change nothing."""
    case = random_case(cell, **sizes, dtype=dtype, **{**options, "lengths": True})
    net = case.net()
    y, state_n = call(net, case)
    g = gradients(net, case)
    T = case.x.shape[0]

    def padded(a, fill):
        longer = np.concatenate([a, np.zeros((3, *a.shape[1:]), a.dtype)])
        for b, n in enumerate(case.given["lengths"]):
            longer[n:, b] = fill
        return longer

    given = dict(case.given)
    if "resets" in given:
        given["resets"] = padded(given["resets"], True)
    (long_y, long_state), backward = net.vjp(padded(case.x, np.nan), case.layer_state(), **given)
    same_bits(long_y[:T], y, "y")
    assert not long_y[T:].any()
    same_state(long_state, state_n)
    long_g = backward(padded(case.dy, np.nan), case.layer_dstate())
    same_bits(long_g.flat, g.flat, "g.flat")
    same_bits(long_g.x[:T], g.x, "g.x")
    same_state(long_g.state, g.state, "g.state")


@given(sizes=SIZES, options=OPTIONS, dtype=DTYPE)
def test_lengths_equal_each_row_alone_bit_for_bit(cell, isa, sizes, options, dtype):
    case = random_case(cell, **sizes, dtype=dtype, **{**options, "lengths": True})
    net = case.net()
    y, state_n = call(net, case)
    for b, n in enumerate(case.given["lengths"]):
        row = rows_of(case, [b])
        del row.given["lengths"]
        alone_y, alone_state = call(net, steps_of(row, slice(0, n), row.state))
        same_bits(y[:n, [b]], alone_y, f"y of row {b}")
        same_state(as_state([s[:, [b]] for s in as_tuple(state_n)]), alone_state, f"state of row {b}")


@given(sizes=SIZES, options=OPTIONS, dtype=DTYPE)
def test_outputs_and_gradients_do_not_depend_on_the_thread_count_bit_for_bit(cell, isa, sizes, options, dtype):
    check_threads(random_case(cell, **sizes, dtype=dtype, **options))


@pytest.mark.parametrize("ragged", [False, True], ids=["full", "ragged"])
@pytest.mark.parametrize("T, B, H", [(20, 1, 150), (12, 9, 66), (4, 64, 130), (3, 33, 257)])
def test_large_outputs_and_gradients_do_not_depend_on_the_thread_count_bit_for_bit(cell, isa, T, B, H, ragged):
    """The size is large enough that the threads are really used."""
    more = {"lengths": True, "resets": True, "context": 3} if ragged else {}
    check_threads(random_case(cell, T, B, 40, H, dtype="float32", num_layers=2, bidirectional=True, **more))


@pytest.mark.parametrize("ragged", [False, True], ids=["full", "ragged"])
def test_calls_that_look_at_signals_in_between_do_not_depend_on_the_thread_count_bit_for_bit(isa, ragged):
    """About 4 GFLOP: computed in several slices, and in fewer of them on more threads."""
    check_threads(random_case("lstm", 110, 34, 260, 256, dtype="float32", lengths=ragged, resets=ragged))


def check_splits(case, cuts):
    net = case.net()
    y, state_n = call(net, case)
    parts, state = [], case.state
    for start, stop in zip([0, *cuts], [*cuts, case.x.shape[0]], strict=True):
        part_y, part_state = call(net, steps_of(case, slice(start, stop), state))
        parts.append(part_y)
        state = as_tuple(part_state)
    same_bits(np.concatenate(parts), y, f"y, cut at {cuts}")
    same_state(as_state(state), state_n, f"state, cut at {cuts}")


@given(sizes=SIZES, options=FORWARD_ONLY, dtype=DTYPE, data=st.data())
def test_splitting_a_sequence_and_carrying_the_state_changes_nothing(cell, isa, sizes, options, dtype, data):
    case = random_case(cell, **sizes, dtype=dtype, **{**options, "lengths": False})
    check_splits(case, sorted(data.draw(st.lists(st.integers(0, sizes["T"]), max_size=4), label="cuts")))


def test_splitting_a_long_sequence_and_carrying_the_state_changes_nothing(cell, isa):
    case = random_case(cell, **LARGE, dtype="float32", num_layers=2)
    check_splits(case, [1, 2, 17, 17, 59])


@given(sizes=SIZES, context=st.sampled_from([0, 3]), num_layers=st.integers(1, 3), dtype=DTYPE)
def test_a_stream_gives_the_bits_of_one_call(cell, isa, sizes, context, num_layers, dtype):
    """s.step T times == s.run in chunks == rnn(x)."""
    case = random_case(cell, **sizes, dtype=dtype, state=False, context=context, num_layers=num_layers)
    net = case.net()
    y, state_n = call(net, case)
    T, B, _ = case.x.shape
    stepped = net.stream(batch_size=B, **case.given)
    out = np.empty_like(y[0])
    for t in range(T):
        if t % 2:
            got = stepped.step(case.x[t])
        else:
            got = stepped.step(case.x[t], out=out)
            assert got is out
        same_bits(got, y[t], f"y[{t}] of step")
    same_state(stepped.state, state_n, "state after steps")
    chunked = net.stream(batch_size=B, **case.given)
    cut = T // 3
    same_bits(np.concatenate([chunked.run(case.x[:cut]), chunked.run(case.x[cut:])]), y, "y of run")
    same_state(chunked.state, state_n, "state after runs")
    mixed = net.stream(batch_size=B, **case.given)
    parts = [mixed.step(case.x[0])[None], mixed.run(case.x[1:])]
    same_bits(np.concatenate(parts), y, "y of step, then run")


def test_a_stream_is_reset_row_by_row_and_keeps_its_weights_until_refreshed(cell, isa):
    case = random_case(cell, 4, 5, 3, 18, state=False, num_layers=2)
    net = case.net()
    y, _ = call(net, case)
    stream = net.stream(batch_size=5)
    stream.run(case.x[:2])
    stream.reset(rows=[1, 3])
    resets = np.zeros((4, 5), bool)
    resets[2, [1, 3]] = True
    want, want_state = net(case.x, resets=resets)
    same_bits(stream.run(case.x[2:]), want[2:], "y after a reset of rows 1 and 3")
    same_state(stream.state, want_state)
    stream.reset()
    same_bits(stream.run(case.x), y, "y after a reset of all rows")
    with net.updating() as flat:
        flat *= 0.5
    stream.reset()
    same_bits(stream.run(case.x), y, "y with the weights as of creation")
    stream.refresh()
    stream.reset()
    same_bits(stream.run(case.x), net(case.x)[0], "y with the new weights")


@given(sizes=SIZES, options=OPTIONS, dtype=DTYPE)
def test_forward_with_and_without_tape_agree_bit_for_bit(cell, isa, sizes, options, dtype):
    case = random_case(cell, **sizes, dtype=dtype, **options)
    net = case.net()
    y, state_n = call(net, case)
    (taped_y, taped_state), _ = net.vjp(case.x, case.layer_state(), **case.given)
    same_bits(taped_y, y, "y")
    same_state(taped_state, state_n)


def test_forward_with_and_without_tape_agree_bit_for_bit_over_several_chunks(cell, isa):
    case = random_case(cell, **LARGE, dtype="float32", num_layers=2, bidirectional=True)
    net = case.net()
    (taped_y, taped_state), _ = net.vjp(case.x, case.layer_state())
    y, state_n = call(net, case)
    same_bits(taped_y, y, "y")
    same_state(taped_state, state_n)


@given(sizes=SIZES, context=st.sampled_from([0, 3]), ragged=st.booleans(), dtype=DTYPE)
def test_reverse_direction_equals_forward_on_flipped_time(cell, isa, sizes, context, ragged, dtype):
    both = random_case(cell, **sizes, dtype=dtype, bidirectional=True, context=context, lengths=ragged)
    y, state_n = call(both.net(), both)
    lengths = both.given.get("lengths", np.full(sizes["B"], sizes["T"]))
    H = features(both.cell, both.H)
    flipped = both.x.copy()
    for b, n in enumerate(lengths):
        flipped[:n, b] = both.x[:n, b][::-1]
    for k, (suffix, x) in enumerate([("", both.x), ("_reverse", flipped)]):
        params = {name: both.params[name + suffix] for name in both.params if not name.endswith("_reverse")}
        one = Case(cell, dtype, {}, params, x, tuple(s[[k]] for s in both.state), both.given)
        one_y, one_state = call(one.net(), one)
        if k:
            for b, n in enumerate(lengths):
                one_y[:n, b] = one_y[:n, b][::-1].copy()
        same_bits(y[:, :, k * H : (k + 1) * H], one_y, f"y of direction {k}")
        same_state(as_state([s[[k]] for s in as_tuple(state_n)]), one_state, f"state of direction {k}")


@given(sizes=SIZES, options=OPTIONS, dtype=DTYPE)
def test_two_layers_equal_one_layer_after_another(cell, isa, sizes, options, dtype):
    both = random_case(cell, **sizes, dtype=dtype, **{**options, "num_layers": 2})
    want_y, want_state = call(both.net(), both)
    want_g = gradients(both.net(), both)
    D = 2 if options["bidirectional"] else 1

    def layer(k, x, dy):
        params = {name.replace(f"_l{k}", "_l0"): p for name, p in both.params.items() if f"_l{k}" in name}
        given = {name: v for name, v in both.given.items() if k == 0 or name != "context"}
        part = slice(k * D, (k + 1) * D)
        return Case(
            cell,
            dtype,
            {"bidirectional": D == 2},
            params,
            x,
            tuple(s[part] for s in both.state),
            given,
            dy,
            tuple(d[part] for d in both.dstate),
        )

    first = layer(0, both.x, None)
    (middle, first_state), first_backward = first.net().vjp(first.x, first.layer_state(), **first.given)
    second = layer(1, middle, both.dy)
    (y, second_state), second_backward = second.net().vjp(second.x, second.layer_state(), **second.given)
    same_bits(y, want_y, "y")
    state = [np.concatenate(pair) for pair in zip(as_tuple(first_state), as_tuple(second_state), strict=True)]
    same_state(as_state(state), want_state)
    second_g = second_backward(both.dy, second.layer_dstate())
    first_g = first_backward(second_g.x, first.layer_dstate())
    for k, g in enumerate((first_g, second_g)):
        for name, p in g.params.items():
            same_bits(want_g.params[name.replace("_l0", f"_l{k}")], p, f"gradient of layer {k}, {name}")
    same_bits(want_g.x, first_g.x, "g.x")


@given(
    sizes=SIZES,
    context=st.sampled_from([0, 3]),
    num_layers=st.integers(1, 2),
    bidirectional=st.booleans(),
    dtype=DTYPE,
    data=st.data(),
)
def test_resets_equal_split_sequences(cell, isa, sizes, context, num_layers, bidirectional, dtype, data):
    """A reset in every row before step t gives two sequences, the second from zeros; also in reverse."""
    T, B, I, H = sizes["T"] + 1, sizes["B"], sizes["I"], sizes["H"]
    case = random_case(
        cell, T, B, I, H, dtype=dtype, context=context, num_layers=num_layers, bidirectional=bidirectional
    )
    t = data.draw(st.integers(1, T - 1), label="t")
    zeros = tuple(np.zeros_like(s) for s in case.state)
    # the initial state enters the forward direction at the start, the reverse direction at the end
    first_state, second_state = (tuple(s.copy() for s in zeros) for _ in range(2))
    D = 2 if bidirectional else 1
    for whole, first, second in zip(case.state, first_state, second_state, strict=True):
        first[::D] = whole[::D]
        if bidirectional:
            second[1::D] = whole[1::D]
    net = case.net()
    resets = np.zeros((T, B), bool)
    resets[t] = True
    y, state_n = net(case.x, case.layer_state(), resets=resets, **case.given)
    one, two = steps_of(case, slice(0, t), first_state), steps_of(case, slice(t, T), second_state)
    # a second layer sees only the first one's outputs in its own part, so the whole stack splits
    one_y, one_state = call(net, one)
    two_y, two_state = call(net, two)
    same_bits(y, np.concatenate([one_y, two_y]), "y")
    for got, a, b in zip(as_tuple(state_n), as_tuple(one_state), as_tuple(two_state), strict=True):
        same_bits(got[::D], b[::D], "final state of the forward direction")
        if bidirectional:
            same_bits(got[1::D], a[1::D], "final state of the reverse direction")


@given(sizes=SIZES, dtype=DTYPE, seed=st.integers(0, 9))
def test_resets_of_single_rows_equal_those_rows_split(cell, isa, sizes, dtype, seed):
    case = random_case(cell, **sizes, dtype=dtype, resets=True, lengths=True, num_layers=2, seed=seed)
    net = case.net()
    y, state_n = call(net, case)
    for b in range(0, sizes["B"], 3):
        n = case.given["lengths"][b]
        starts = [t for t in range(n) if case.given["resets"][t, b]]
        row = rows_of(case, [b])
        row.given = {}
        state, parts = row.state, [np.empty((0, 1, features(cell, case.H)), dtype)]
        for start, stop in zip([0, *starts], [*starts, n], strict=True):
            if start in starts:
                state = None
            part_y, part_state = call(net, steps_of(row, slice(start, stop), state))
            parts.append(part_y)
            state = as_tuple(part_state)
        same_bits(y[:n, [b]], np.concatenate(parts), f"y of row {b}")
        same_state(as_state([s[:, [b]] for s in as_tuple(state_n)]), as_state(state), f"state of row {b}")


@pytest.mark.long
def test_a_sequence_of_100_000_steps_equals_its_windows(cell, isa):
    """No size is stored in 16 bits, nothing is unrolled (Lightning#19985), and all gradients are finite."""
    case = random_case(cell, 100_000, 1, 2, 6, dtype="float32")
    check_splits(case, list(range(0, 100_000, 700)))
    assert np.isfinite(gradients(case.net(), case).flat).all()


# --- dropout ------------------------------------------------------------------


def dropped(case, net, **more):
    """Return the outputs of a forward pass with the masks of key 5."""
    given = {**case.given, **more}
    (y, _), backward = net.vjp(case.x, case.layer_state(), rng=5, **given)
    return y, backward


@pytest.mark.parametrize("variational", [False, True])
def test_dropout_masks_do_not_depend_on_threads_sorting_or_padding(cell, isa, variational):
    case = random_case(cell, 6, 9, 3, 20, dtype="float32", num_layers=3)
    net = case.net(dropout=0.5, variational=variational)
    y, backward = dropped(case, net)
    g = backward(case.dy, case.layer_dstate())
    for n in (2, 3):
        with fastrnn.threads(n):
            other_y, other_backward = dropped(case, net)
            same_bits(other_y, y, f"y on {n} threads")
            same_gradients(other_backward(case.dy, case.layer_dstate()), g, f"{n} threads")
    lengths = np.array([2, 6, 0, 5, 5, 1, 6, 3, 4])
    ragged_y, _ = dropped(case, net, lengths=lengths)
    for b, n in enumerate(lengths):
        same_bits(ragged_y[:n, b], y[:n, b], f"row {b} of a ragged batch")
    fewer = rows_of(case, np.arange(4))
    same_bits(dropped(fewer, net)[0], y[:, :4], "the first rows alone")
    shorter = steps_of(case, slice(0, 3), case.state)
    same_bits(dropped(shorter, net)[0], y[:3], "the first steps alone")


def test_dropout_is_fresh_each_call_and_the_same_for_the_same_seed_and_call(cell):
    case = random_case(cell, 4, 3, 2, 30, num_layers=2)

    def outputs(seed):
        net = case.net(dropout=0.5, seed=seed)
        return [net.vjp(case.x, case.layer_state())[0][0] for _ in range(3)]

    first, again, other = outputs(1), outputs(1), outputs(2)
    for k in range(3):
        same_bits(first[k], again[k], f"call {k}")
        assert (first[k] != other[k]).any()
    assert (first[0] != first[1]).any() and (first[1] != first[2]).any()


def test_dropout_is_inactive_in_a_plain_call_and_after_the_last_layer(cell, isa):
    case = random_case(cell, 4, 3, 2, 30, num_layers=2)
    same_bits(call(case.net(dropout=0.5), case)[0], call(case.net(), case)[0], "y of a plain call")
    one = random_case(cell, 4, 3, 2, 30)
    same_bits(dropped(one, one.net(dropout=0.5))[0], call(one.net(), one)[0], "y of a single layer")


def test_a_variational_mask_is_the_same_at_every_step_and_a_plain_one_is_not(isa):
    """The masks are visible through a second layer that passes on its input: relu of the identity."""
    H, T = 40, 6
    eye, zero = np.eye(H), np.zeros(H)
    params = {}
    for k in range(2):
        params |= {f"weight_ih_l{k}": eye, f"weight_hh_l{k}": 0 * eye, f"bias_ih_l{k}": zero, f"bias_hh_l{k}": zero}
    case = Case("rnn_relu", "float64", {"num_layers": 2}, params, np.ones((T, 50, H)), None)
    for variational in (False, True):
        (y, _), _ = case.net(dropout=0.25, variational=variational).vjp(case.x, rng=3)
        np.testing.assert_allclose(np.unique(y), [0, 1 / 0.75], rtol=1e-15)
        assert abs((y > 0).mean() - 0.75) < (0.04 if variational else 0.02)
        assert (y == y[0]).all() == variational
        assert len({y[0, b].tobytes() for b in range(50)}) == 50, "each row has its own mask"


# --- reproducibility ----------------------------------------------------------


def test_ten_trainings_with_the_same_seed_give_the_same_bits(isa):
    """On one, two and three threads, in one process: forward, backward and update, with dropout."""
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((12, 9, 5)).astype("float32"), rng.standard_normal((12, 9, 34)).astype("float32")

    def train():
        net = fastrnn.LSTM(5, 34, 2, dropout=0.3, seed=7)
        state = None
        for _ in range(4):
            (_, state), backward = net.vjp(x, state)
            g = backward(dy, need_x=False)
            with net.updating() as flat:
                flat -= 0.01 * g.flat
        return net.flat.copy()

    want = train()
    for k in range(10):
        with fastrnn.threads(1 + k % 3):
            same_bits(train(), want, f"training {k}")


# --- memory -------------------------------------------------------------------


@given(sizes=SIZES, options=OPTIONS, dtype=DTYPE)
def test_memory_used_before_leaves_no_trace(cell, isa, sizes, options, dtype):
    """Tapes and scratch are reused without clearing: a run full of NaN changes no bit of the next one."""
    case = random_case(cell, **sizes, dtype=dtype, **options)
    net = case.net()
    want, want_g = call(net, case), gradients(net, case)
    poisoned = Case(
        cell,
        dtype,
        case.options,
        case.params,
        np.full_like(case.x, np.nan),
        tuple(np.full_like(s, np.nan) for s in case.state),
    )
    poisoned.given = {
        **case.given,
        **({"context": np.full_like(case.given["context"], np.nan)} if "context" in case.given else {}),
    }
    poisoned.dy, poisoned.dstate = np.full_like(case.dy, np.nan), tuple(np.full_like(d, np.nan) for d in case.dstate)
    call(net, poisoned), gradients(net, poisoned)
    got = call(net, case)
    same_bits(got[0], want[0], "y")
    same_state(got[1], want[1])
    call(net, poisoned), gradients(net, poisoned)
    same_gradients(gradients(net, case), want_g)
