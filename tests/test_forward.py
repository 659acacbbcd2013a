"""Outputs and final states of every cell, dtype and instruction set against the float64 reference."""

import numpy as np
import pytest
from nets import CELLS, DTYPES, as_state, as_tuple, features, make, random_case, random_params, same_bits, same_state

import fastrnn

TOLERANCE = {"float64": {"rtol": 1e-12, "atol": 1e-12}, "float32": {"rtol": 1e-5, "atol": 1e-5}}

SHAPES = [  # T, B, I, H: all 1; odd sizes below, at and above a vector and a tile
    (1, 1, 1, 1),
    (1, 3, 2, 5),
    (5, 3, 4, 11),
    (3, 2, 1, 8),
    (2, 13, 7, 16),
    (4, 7, 17, 33),
    (2, 5, 64, 65),
    (3, 1, 2, 150),  # one row takes two panels at a time
    (2, 2, 600, 9),  # the input product is divided in two along k
]

OPTIONS = {
    "no state": {"state": False},
    "no bias": {"bias": False},
    "lengths": {"lengths": True},
    "resets": {"resets": True},
    "lengths and resets": {"lengths": True, "resets": True},
    "context": {"context": 3},
    "bidirectional": {"bidirectional": True},
    "three layers": {"num_layers": 3},
    "everything": {"lengths": True, "resets": True, "context": 2, "bidirectional": True, "num_layers": 2},
}


@pytest.fixture(params=CELLS)
def cell(request):
    return request.param


@pytest.fixture(params=DTYPES)
def dtype(request):
    return request.param


def check(case, y, state_n):
    """Compare dtype, shape and numbers with the reference."""
    want_y, want_state = case.reference()
    assert y.dtype == case.dtype and y.shape == want_y.shape
    np.testing.assert_allclose(y, want_y, **TOLERANCE[case.dtype], err_msg="y")
    for k, (got, want) in enumerate(zip(as_tuple(state_n), want_state, strict=True)):
        assert got.dtype == case.dtype and got.shape == want.shape
        np.testing.assert_allclose(got, want, **TOLERANCE[case.dtype], err_msg=f"state_n[{k}]")


@pytest.mark.parametrize("T, B, I, H", SHAPES)
def test_outputs_and_states_agree_with_the_reference(cell, dtype, isa, T, B, I, H):
    case = random_case(cell, T, B, I, H, dtype=dtype)
    check(case, *case.net()(case.x, case.layer_state()))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_every_option_agrees_with_the_reference(cell, dtype, isa, options):
    case = random_case(cell, 6, 7, 3, 19, dtype=dtype, seed=1, **options)
    check(case, *case.net()(case.x, case.layer_state(), **case.given))


@pytest.mark.parametrize("lengths", [[4, 4, 4], [0, 0, 0], [1, 4, 0], [0, 1, 2], [3, 2, 1], [1, 1, 1]], ids=str)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_lengths_in_any_order(cell, isa, lengths, bidirectional):
    case = random_case(cell, 4, 3, 2, 9, seed=2, bidirectional=bidirectional)
    case.given["lengths"] = np.array(lengths)
    y, state_n = case.net()(case.x, case.layer_state(), **case.given)
    check(case, y, state_n)
    for b, n in enumerate(lengths):
        assert not y[n:, b].any(), "past a row's length its output is 0"
        if n == 0:
            for got, given in zip(as_tuple(state_n), case.state, strict=True):
                same_bits(got[:, b], given[:, b], "the state of a row of length 0")


def test_lengths_may_be_any_integers(cell):
    case = random_case(cell, 4, 3, 2, 5, seed=3)
    net = case.net()
    want = net(case.x, lengths=np.array([2, 4, 0]))[0]
    for lengths in (
        [2, 4, 0],
        (2, 4, 0),
        np.array([2, 4, 0], "int32"),
        np.array([2, 4, 0], "uint8"),
        np.array([2, 9, 4, 9, 0, 9])[::2],
    ):
        same_bits(net(case.x, lengths=lengths)[0], want)


@pytest.mark.parametrize("where", ["first", "last", "all", "none"])
def test_resets_at_the_ends(cell, isa, where):
    case = random_case(cell, 5, 2, 3, 6, seed=4, bidirectional=True, num_layers=2)
    resets = np.zeros((5, 2), bool)
    resets[{"first": 0, "last": 4, "all": slice(None), "none": slice(0)}[where]] = True
    case.given["resets"] = resets
    check(case, *case.net()(case.x, case.layer_state(), **case.given))


def test_resets_past_the_length_are_ignored(cell, isa):
    case = random_case(cell, 5, 3, 2, 6, seed=5, bidirectional=True)
    lengths, resets = np.array([2, 5, 0]), np.zeros((5, 3), bool)
    resets[2:, 0] = resets[:, 2] = True
    net = case.net()
    got = net(case.x, case.layer_state(), lengths=lengths, resets=resets)
    want = net(case.x, case.layer_state(), lengths=lengths)
    same_bits(got[0], want[0], "y")
    same_state(got[1], want[1])


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_batch_first_turns_input_output_and_resets_and_nothing_else(cell, options):
    case = random_case(cell, 6, 4, 3, 7, seed=6, **options)
    want_y, want_state = case.net()(case.x, case.layer_state(), **case.given)
    given = dict(case.given)
    if "resets" in given:
        given["resets"] = given["resets"].T
    y, state_n = case.net(batch_first=True)(case.x.swapaxes(0, 1), case.layer_state(), **given)
    same_bits(y, np.ascontiguousarray(want_y.swapaxes(0, 1)), "y")
    same_state(state_n, want_state)


@pytest.mark.parametrize("batch_first", [False, True])
def test_an_unbatched_sequence_equals_a_batch_of_one(cell, isa, batch_first):
    case = random_case(cell, 5, 1, 3, 6, seed=7, num_layers=2, bidirectional=True)
    want_y, want_state = case.net()(case.x, case.layer_state())
    y, state_n = case.net(batch_first=batch_first)(case.x[:, 0], as_state([s[:, 0] for s in case.state]))
    same_bits(y, want_y[:, 0], "y")
    same_state(state_n, as_state([s[:, 0] for s in as_tuple(want_state)]))


def test_without_input_features_the_network_runs_on_its_state_alone(cell, dtype, isa):
    case = random_case(cell, 6, 3, 0, 9, dtype=dtype, seed=8)
    check(case, *case.net()(case.x, case.layer_state()))


def test_ids_and_an_embedding_equal_the_embedded_input_bit_for_bit(cell, dtype, isa):
    for B, lengths in ((1, None), (5, None), (5, [3, 0, 7, 7, 1])):
        case = random_case(cell, 7, B, 6, 18, dtype=dtype, seed=9, num_layers=2)
        embedding = fastrnn.Embedding(11, 6, dtype=dtype, seed=0)
        ids = np.random.default_rng(0).integers(0, 11, (7, B))
        net = case.net()
        got = net(ids, case.layer_state(), lengths=lengths, embedding=embedding)
        want = net(embedding.params["weight"][ids], case.layer_state(), lengths=lengths)
        same_bits(got[0], want[0], "y")
        same_state(got[1], want[1])


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("T, B", [(0, 3), (4, 0), (0, 0)])
def test_no_steps_or_no_rows_give_empty_outputs_and_the_unchanged_state(cell, dtype, isa, T, B, bidirectional):
    case = random_case(cell, T, B, 3, 6, dtype=dtype, seed=10, num_layers=2, bidirectional=bidirectional)
    for given in ({}, {"lengths": np.zeros(B, int)}, {"resets": np.ones((T, B), bool)}):
        y, state_n = case.net()(case.x, case.layer_state(), **given)
        assert y.shape == (T, B, features(cell, 6) * (2 if bidirectional else 1)) and y.dtype == dtype
        same_state(state_n, case.layer_state())
        for got, kept in zip(as_tuple(state_n), case.state, strict=True):
            assert not np.shares_memory(got, kept), "the returned state belongs to the caller"


# --- NaN, infinities, huge and tiny numbers -----------------------------------


@pytest.mark.parametrize("B", [3, 20])
@pytest.mark.parametrize("source", ["x", "state"])
def test_nan_in_a_row_stays_in_that_row_and_is_not_swallowed(cell, dtype, isa, source, B):
    case = random_case(cell, 5, B, 3, 18, dtype=dtype, seed=11, num_layers=2)
    net = case.net()
    clean_y, clean_state = net(case.x, case.layer_state())
    if source == "x":
        case.x[2, 1, 0] = np.nan
    else:
        case.state[-1][0, 1, :] = np.nan  # the LSTM's c, the others' h
    y, state_n = net(case.x, case.layer_state())
    others = np.arange(B) != 1
    same_bits(y[:, others], clean_y[:, others], "y of the other rows")
    for got, want in zip(as_tuple(state_n), as_tuple(clean_state), strict=True):
        same_bits(got[:, others], want[:, others], "state of the other rows")
        assert np.isnan(got[:, 1]).all()
    first = 2 if source == "x" else 0
    assert np.isnan(y[first:, 1]).all()
    assert np.isfinite(y[:first]).all()


def test_nan_in_a_weight_reaches_every_row(cell, dtype, isa):
    case = random_case(cell, 3, 4, 3, 18, dtype=dtype, seed=12)
    case.params["weight_ih_l0"][:] = np.nan
    y, state_n = case.net()(case.x, case.layer_state())
    assert np.isnan(y).all() and all(np.isnan(s).all() for s in as_tuple(state_n))


@pytest.mark.parametrize("size", [1e4, 1e30, np.inf])
def test_huge_inputs_saturate_as_the_reference_does(cell, dtype, isa, size):
    case = random_case(cell, 4, 3, 1, 17, dtype=dtype, seed=13)
    case.x[1] = size
    case.x[2] = -size
    y, state_n = case.net()(case.x, case.layer_state())
    with np.errstate(invalid="ignore"):  # inf - inf in the relu network
        want_y, want_state = case.reference()
    tolerance = dict(TOLERANCE[dtype], equal_nan=True)
    if cell == "rnn_relu" and size != 1e4:  # its sums exceed float32: compare only the finite values
        with np.errstate(over="ignore"):
            finite = np.isfinite(want_y.astype("float32"))
        assert finite[:1].all()
        np.testing.assert_allclose(y[:1], want_y[:1], **tolerance)
        return
    np.testing.assert_allclose(y, want_y, **tolerance)
    for got, want in zip(as_tuple(state_n), want_state, strict=True):
        np.testing.assert_allclose(got, want, **tolerance)
    if cell != "rnn_relu":
        assert np.isfinite(y).all()


def test_denormal_inputs_and_states_count_as_zero_or_as_themselves(cell, dtype, isa):
    """Whether or not denormals are flushed to zero in a call, outputs differ by at most the smallest normal number."""
    tiny = np.finfo(dtype).smallest_subnormal * 3
    case = random_case(cell, 4, 3, 2, 17, dtype=dtype, seed=14)
    case.x[:] = tiny
    for s in case.state:
        s[:] = tiny
    check(case, *case.net()(case.x, case.layer_state()))
    zeros = case.net()(np.zeros_like(case.x))[0]
    np.testing.assert_allclose(
        case.net()(case.x, case.layer_state())[0], zeros, rtol=0, atol=float(np.finfo(dtype).tiny)
    )


# --- ownership of memory -------------------------------------------------------


def spellings(a):
    """The same numbers in a different memory layout."""
    yield "read-only", a.copy()
    yield "fortran order", np.asfortranarray(a)
    yield "strided", np.repeat(a, 2, axis=-1)[..., ::2]
    yield "reversed", a[::-1].copy()[::-1]
    yield "transposed", a.swapaxes(0, 1).copy().swapaxes(0, 1)
    off = np.empty(a.nbytes + 1, "u1")[1:].view(a.dtype).reshape(a.shape)
    off[...] = a
    yield "unaligned", off


@pytest.mark.parametrize("layout", ["read-only", "fortran order", "strided", "reversed", "transposed", "unaligned"])
def test_any_layout_is_accepted_gives_the_same_bits_and_is_never_written(cell, isa, layout):
    case = random_case(cell, 5, 4, 3, 10, seed=15, lengths=True, resets=True, context=3, num_layers=2)
    net = case.net()

    def respell(a):
        spelled = dict(spellings(a))[layout]
        spelled.flags.writeable = False
        return spelled

    def run(f):
        x, state, dy, dstate = (
            f(case.x),
            as_state([f(s) for s in case.state]),
            f(case.dy),
            as_state([f(d) for d in case.dstate]),
        )
        given = {
            "lengths": case.given["lengths"],
            "resets": f(case.given["resets"]),
            "context": f(case.given["context"]),
        }
        outputs = net(x, state, **given)
        (y, state_n), backward = net.vjp(x, state, **given)
        g = backward(dy, dstate)
        arrays = [x, *as_tuple(state), dy, *as_tuple(dstate), given["resets"], given["context"]]
        return arrays, outputs, (y, state_n), g

    originals, want, want_vjp, want_g = run(lambda a: a)
    arrays, got, got_vjp, g = run(respell)
    same_bits(got[0], want[0], "y")
    same_state(got[1], want[1])
    same_bits(got_vjp[0], want_vjp[0], "y of vjp")
    same_bits(g.x, want_g.x, "g.x")
    same_bits(g.flat, want_g.flat, "g.flat")
    same_bits(g.context, want_g.context, "g.context")
    same_state(g.state, want_g.state, "g.state")
    fresh = random_case(cell, 5, 4, 3, 10, seed=15, lengths=True, resets=True, context=3, num_layers=2)
    for given in (originals, arrays):
        truth = [fresh.x, *fresh.state, fresh.dy, *fresh.dstate, fresh.given["resets"], fresh.given["context"]]
        for a, b in zip(given, truth, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_returned_arrays_belong_to_the_caller(cell, isa, bidirectional):
    """Outputs do not alias the input, the tape, each other or the outputs of a later call."""
    case = random_case(cell, 5, 3, 4, 10, seed=16, bidirectional=bidirectional)
    net = case.net()
    want = net(case.x, case.layer_state())
    (y, state_n), backward = net.vjp(case.x, case.layer_state())
    g = backward(case.dy, case.layer_dstate())
    returned = [y, *as_tuple(state_n), g.x, *as_tuple(g.state), g.flat]
    again = net(case.x, case.layer_state())
    returned += [again[0], *as_tuple(again[1])]
    given = [case.x, *case.state, case.dy, *case.dstate, net.flat]
    for k, a in enumerate(returned):
        assert a.flags.writeable
        for b in returned[k + 1 :] + given:
            assert not np.shares_memory(a, b)
    kept = [a.copy() for a in (g.x, g.flat)]
    for a in returned:
        a[...] = np.nan
    second = backward(case.dy, case.layer_dstate())
    same_bits(second.x, kept[0], "g.x after y was overwritten")
    same_bits(second.flat, kept[1], "g.flat after y was overwritten")
    same_bits(net(case.x, case.layer_state())[0], want[0], "y of a later call")


def test_the_state_may_change_before_backward_and_x_is_not_copied(cell, isa):
    """A carried state may be overwritten at once; x, which dW needs, must not change (see vjp's docstring)."""
    case = random_case(cell, 5, 3, 4, 10, seed=17)
    net = case.net()
    _, backward = net.vjp(case.x, case.layer_state())
    want = backward(case.dy, case.layer_dstate())
    states = [s.copy() for s in case.state]
    _, backward = net.vjp(case.x, as_state(states))
    for s in states:
        s[:] = np.nan
    got = backward(case.dy, case.layer_dstate())
    same_bits(got.flat, want.flat, "g.flat")
    same_bits(got.x, want.x, "g.x")
    assert "do not change it before the backward pass" in type(net).vjp.__doc__


# --- parameters and versions --------------------------------------------------


def test_new_parameters_are_used_by_the_next_call(cell, isa):
    """The packed copies follow the version, however the parameters are written."""
    case = random_case(cell, 4, 3, 2, 9, seed=18)
    net = case.net()
    other = random_params(np.random.default_rng(5), cell, 2, 9)
    first = net(case.x)[0]
    version = net.version
    net.load_state_dict(other)
    assert net.version > version
    case.params = other
    case.state = None
    check(case, *net(case.x))
    with net.updating() as flat:
        flat *= 0.5
    case.params = {name: 0.5 * p for name, p in other.items()}
    check(case, *net(case.x))
    assert np.abs(net(case.x)[0] - first).max() > 1e-3


@pytest.mark.parametrize("copier", ["copy", "astype", "pickle"])
def test_a_copy_computes_the_same_and_lives_alone(cell, copier):
    import pickle

    case = random_case(cell, 4, 3, 2, 9, seed=19, context=2, num_layers=2, bidirectional=True)
    net = case.net()
    want = net(case.x, case.layer_state(), **case.given)[0]
    other = {
        "copy": net.copy,
        "astype": lambda: net.astype("float64"),
        "pickle": lambda: pickle.loads(pickle.dumps(net)),
    }[copier]()
    same_bits(other(case.x, case.layer_state(), **case.given)[0], want, "y of the copy")
    with other.updating() as flat:
        flat[:] = 0
    same_bits(net(case.x, case.layer_state(), **case.given)[0], want, "y of the original")
    assert repr(other) == repr(net)
    assert other.num_parameters == net.num_parameters == sum(p.size for p in case.params.values())


def test_astype_rounds_the_parameters_and_computes_in_the_new_dtype(cell):
    case = random_case(cell, 4, 3, 2, 9, seed=20)
    single = case.net().astype("float32")
    assert single.dtype == "float32"
    y, _ = single(case.x.astype("float32"))
    np.testing.assert_allclose(y, case.net()(case.x)[0], rtol=1e-4, atol=1e-5)


def test_the_same_seed_gives_the_same_parameters_and_another_seed_others(cell):
    a, b, c = (make(cell, 3, 5, seed=seed) for seed in (1, 1, 2))
    same_bits(a.flat, b.flat)
    assert (a.flat != c.flat).mean() > 0.9


@pytest.mark.long
def test_every_hidden_size_and_batch_size_agrees_with_the_reference(cell, dtype, isa):
    for H in range(1, 140):
        case = random_case(cell, 2, 1 + H % 9, 1 + H % 5, H, dtype=dtype, seed=H)
        check(case, *case.net()(case.x, case.layer_state()))
    for B in range(1, 66):
        case = random_case(cell, 2, B, 3, 20, dtype=dtype, seed=B, lengths=True)
        check(case, *case.net()(case.x, case.layer_state(), **case.given))
