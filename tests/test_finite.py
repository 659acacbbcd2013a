"""check_finite: the first value that is not finite is named, wherever it is injected, and nothing else is reported."""

import re

import fuzz
import numpy as np
import pytest
from nets import CELLS, DTYPES, as_state, as_tuple, gradients, random_case, same_bits, same_gradients, same_state

import fastrnn
from fastrnn._core import finite

BAD = [np.nan, np.inf, -np.inf]


def message(call):
    """Return the message of the FloatingPointError, or fail if there is none."""
    with pytest.raises(FloatingPointError) as caught:
        call()
    return str(caught.value)


def drawn(seed):
    """Return (rng, case) of any cell, sizes and options; with B > 0 and T > 0."""
    rng = np.random.default_rng(seed)
    T, B, I, H = (int(n) for n in rng.integers(1, [8, 5, 5, 6]))
    case = random_case(
        CELLS[seed % len(CELLS)], T, B, I, H, dtype=DTYPES[seed // 3 % 2], seed=seed, state=rng.random() < 0.7,
        lengths=rng.random() < 0.5, resets=rng.random() < 0.4, context=int(rng.integers(0, 3)),
        num_layers=int(rng.integers(1, 4)), bidirectional=rng.random() < 0.5,
    )  # fmt: skip
    if rng.random() < 0.3:
        case.given["mask"] = rng.random((T, B)) < 0.7
    return rng, case


def used(case):
    """Return (T, B), the steps that are computed."""
    T, B = case.x.shape[:2]
    steps = np.ones((T, B), bool) if "lengths" not in case.given else np.arange(T)[:, None] < case.given["lengths"]
    return steps & case.given.get("mask", True)


def both(net, x, state, given):
    """Return the call and vjp, with the check."""
    return [lambda: net(x, state, **given, check_finite=True), lambda: net.vjp(x, state, **given, check_finite=True)]


def layer_of(k, case):
    layer, d = divmod(k, 1 + case.options["bidirectional"])
    return f"layer {layer}{' (reverse)' if d else ''}"


# --- everything is finite: no report, no bit changes ---------------------------


@pytest.mark.fuzz
def test_the_check_changes_no_bit_and_ignores_padding():
    for seed in fuzz.seeds("finite: nothing wrong", 42):
        with fuzz.named(seed):
            rng, case = drawn(seed)
            net, state = case.net(), case.layer_state()
            x, dy = case.x.copy(), case.dy.copy()
            x[~used(case)] = BAD[seed % 3]
            past = (
                ~used(case)
                if "mask" not in case.given
                else np.arange(len(x))[:, None] >= case.given.get("lengths", np.full(x.shape[1], len(x)))
            )
            dy[past] = BAD[seed % 3]
            want_y, want_state = net(case.x, state, **case.given)
            y, state_n = net(x, state, **case.given, check_finite=True)
            (trained, _), backward = net.vjp(x, state, **case.given, check_finite=True)
            for got in (y, trained):
                same_bits(got, want_y, "y")
            same_state(state_n, want_state)
            g, want = backward(dy, case.layer_dstate()), gradients(net, case)
            same_gradients(g, want)


# --- arguments ----------------------------------------------------------------


@pytest.mark.fuzz
def test_a_planted_argument_is_named_with_its_place():
    for seed in fuzz.seeds("finite: arguments", 84):
        with fuzz.named(seed):
            rng, case = drawn(seed)
            value = np.dtype(case.dtype).type(BAD[seed % 3])
            kind = ["parameter", "x", "state", "context", "dy", "dstate_n"][seed % 6]
            params = dict(case.params)
            x, given, state, dy = case.x.copy(), dict(case.given), case.state, case.dy.copy()
            places = np.argwhere(used(case))
            dstate = tuple(a.copy() for a in case.dstate)
            if kind == "parameter":
                name = list(params)[rng.integers(len(params))]
                index = tuple(int(rng.integers(n)) for n in params[name].shape)
                params[name] = params[name].copy()
                params[name][index] = value
                start = (
                    f"the parameter {name}[{', '.join(map(str, index))}] is {value} (the only value that is not finite)"
                )
            elif kind in ("state", "dstate_n"):
                if kind == "state":
                    state = dstate
                k = int(rng.integers(len(dstate)))
                index = tuple(int(rng.integers(n)) for n in dstate[k].shape)
                dstate[k][index] = value
                start = f"{'hc'[k]} of {kind} at {layer_of(index[0], case)}, row {index[1]}, unit {index[2]} "
                start += f"is {value} (the only"
            elif kind == "context" and case.given.get("context") is not None:
                given["context"] = given["context"].copy()
                b, feature = (int(rng.integers(n)) for n in given["context"].shape)
                given["context"][b, feature] = value
                start = f"context at row {b}, feature {feature} is {value} (the only"
            elif len(places):
                (t, b), later = places[rng.integers(len(places))], places[-1]
                array = dy if kind == "dy" else x
                feature = int(rng.integers(array.shape[2]))
                array[t, b, feature] = value
                array[tuple(later)] = value  # a later one, which must not be named
                named = 0 if (t, b) == tuple(later) else feature
                start = f"{'dy' if kind == 'dy' else 'x'} at step {t}, row {b}, feature {named} is {value} (the "
            else:
                continue
            net = case.net()
            net.load_state_dict(params)
            state = None if state is None else as_state(state)
            if kind in ("dy", "dstate_n"):
                _, backward = net.vjp(x, state, **given, check_finite=True)
                assert message(lambda: backward(dy, as_state(dstate))).startswith(start)  # noqa: B023
                continue
            for call in both(net, x, state, given):
                assert message(call).startswith(start), start


def test_rows_of_an_embedding_are_named_by_their_id_and_only_if_used():
    embedding = fastrnn.Embedding(50, 3, seed=0)
    rnn = fastrnn.GRU(3, 4, seed=0)
    weight = embedding.params["weight"].copy()
    weight[[7, 20]] = np.nan
    embedding.load_state_dict({"weight": weight})
    ids = np.array([[1, 2], [30, 4]])
    for many in (ids, np.tile(ids, (20, 1))):  # some of its rows are used, or all
        rnn(many, embedding=embedding, check_finite=True)
        many = many.copy()
        many[-1, 1] = 20
        assert message(lambda many=many: rnn(many, embedding=embedding, check_finite=True)).startswith(
            "the embedding at the row of id 20, feature 0 is nan"
        )


def test_a_learnt_initial_state_is_a_parameter_and_one_sequence_has_no_row():
    rnn = fastrnn.LSTM(2, 3, learn_initial_state=True, seed=0)
    with rnn.updating() as flat:
        flat[-1] = np.inf
    x = np.zeros((4, 2), "float32")
    assert (
        message(lambda: rnn(x, check_finite=True))
        == "the parameter c_0[0, 2] is inf (the only value that is not finite)"
    )
    x[3, 1] = np.nan
    assert message(lambda: fastrnn.LSTM(2, 3)(x, check_finite=True)).startswith("x at step 3, feature 1 is nan")


# --- computed values ----------------------------------------------------------


GATES = {1: ["its unit"], 3: ["gate r", "gate z", "gate n"], 4: ["gate i", "gate f", "gate g", "gate o"]}


def gates_of(net):
    return ["gate i", "gate g", "gate o"] if net.cell.has_c and net.num_gates == 3 else GATES[net.num_gates]


@pytest.mark.fuzz
def test_a_gate_whose_pre_activation_is_not_a_number_is_named():
    """x gives a gate +inf at one step of one row; the context gives -inf in all its steps."""
    for seed in fuzz.seeds("finite: gates", 84):
        with fuzz.named(seed):
            rng = np.random.default_rng(seed)
            T, B, I, H = (int(n) for n in rng.integers(2, [9, 5, 5, 6]))
            two = rng.random() < 0.5
            # saturating functions, so that -inf alone is hidden
            cell = [
                "rnn_tanh",
                "rnn_sigmoid",
                "gru",
                "gru_before",
                "lstm",
                "lstm_peephole",
                "lstm_coupled",
                "lstm_projected",
            ][seed % 8]
            case = random_case(
                cell,
                T,
                B,
                I,
                H,
                dtype="float32",
                seed=seed,
                lengths=rng.random() < 0.5,
                context=1,
                bidirectional=two,
                num_layers=int(rng.integers(1, 3)),
            )
            if rng.random() < 0.3:
                case.given["mask"] = rng.random((T, B)) < 0.7
            places = np.argwhere(used(case))
            if not len(places):
                continue
            t, b = (int(n) for n in places[rng.integers(len(places))])
            net = case.net()
            gate, unit, d = int(rng.integers(net.num_gates)), int(rng.integers(H)), int(rng.integers(1 + two))
            suffix, params = "_l0" + ("_reverse" if d else ""), {name: a.copy() for name, a in case.params.items()}
            row, x, context = gate * H + unit, np.zeros_like(case.x), np.zeros_like(case.given["context"])
            params["weight_ih" + suffix][row, 0] = params["weight_ch" + suffix][row, 0] = 3e38
            x[t, b, 0], context[b, 0] = 1e3, -1e3
            net.load_state_dict(params)
            for call in both(net, x, case.layer_state(), {**case.given, "context": context}):
                said = message(call)
                start = f"{net.kind} layer 0{' (reverse)' if d else ''}, {gates_of(net)[gate]}, "
                start += f"step {t}, row {b}, unit {unit}: nan (the "
                assert said.startswith(start), f"{said}\n{start}"
                assert "its inputs are finite: its pre-activation overflows float32" in said


def first_by_states(net, case):
    """Return (layer, direction, step, row) of the first state that is not finite, from the states of every step."""
    _, _, states = net(case.x, case.layer_state(), **case.given, return_states=True)
    wrong = np.any([~np.isfinite(s).all(-1) for s in as_tuple(states)], axis=0)  # (L*D, T, B)
    D = net.num_directions
    for k, one in enumerate(wrong):
        t, b = np.nonzero(one)
        if len(t):
            first = np.lexsort((b, -t if k % D else t))[0]
            return layer_of(k, case), int(t[first]), int(b[first])
    return None


@pytest.mark.fuzz
def test_the_first_place_of_an_overflow_is_that_of_the_states_of_every_step():
    """Any cell and options, with unbounded functions and parameters so large that some states overflow."""
    found = 0
    for seed in fuzz.seeds("finite: overflow", 60):
        with fuzz.named(seed):
            rng, case = drawn(seed)
            case.given.pop("mask", None)  # return_states does not support mask
            case.given.pop("resets", None)  # a state that is cut at once is not reported
            make, options = [
                (fastrnn.RNN, dict(nonlinearity="relu")), (fastrnn.RNN, dict(nonlinearity="linear")),
                (fastrnn.GRU, dict(activation="linear")),
                (fastrnn.GRU, dict(recurrent_activation="exponential", reset_after=False)),
                (fastrnn.LSTM, dict(activation="linear")), (fastrnn.LSTM, dict(recurrent_activation="softplus")),
                (fastrnn.LSTM, dict(activation="exponential", output_activation="selu", proj_size=1)),
            ][seed % 7]  # fmt: skip
            if options.get("proj_size") and case.H < 2:
                continue
            context = case.given["context"].shape[1] if "context" in case.given else 0
            net = make(case.I, case.H, **options, **case.options, context_size=context, dtype="float32", seed=seed)
            with net.updating() as flat:
                flat *= np.float32(10.0 ** rng.uniform(0, 12))
            case.x = case.x.astype("float32") * np.float32(1e3)
            case.given = {name: a.astype("float32") if name == "context" else a for name, a in case.given.items()}
            case.state = None
            place = first_by_states(net, case)
            for call in both(net, case.x, None, case.given):
                if place is None:
                    call()
                    continue
                found += 1
                layer, t, b = place
                said = message(call)
                assert said.startswith(f"{net.kind} {layer}, ") and f", step {t}, row {b}, unit " in said, (
                    f"{said}\n{place}"
                )
    assert found > 30 or fuzz._FIRST  # with other seeds there may be fewer


def test_cell_state_and_output_are_distinguished_from_the_gates():
    x = np.ones((3, 1, 1), "float32")
    net = fastrnn.LSTM(1, 1, activation="linear")
    one = {name: np.zeros(a.shape, "float32") for name, a in net.params.items()}
    one["bias_ih_l0"][:] = [50, 50, 3e38, 50]
    net.load_state_dict(one)
    assert message(lambda: net(x, check_finite=True)) == (
        "LSTM layer 0, cell state c, step 1, row 0, unit 0: inf "
        "(the first of 4 values that are not finite in the states of this layer); "
        "its inputs are finite: gates and state multiplied and added overflow float32"
    )
    net = fastrnn.LSTM(1, 1, activation="linear", output_activation=("affine", 1e38))
    one["bias_ih_l0"][:] = [50, 50, 2, 50]
    net.load_state_dict(one)
    assert message(lambda: net(x, check_finite=True)).startswith(
        "LSTM layer 0, state h, step 1, row 0, unit 0: inf (the first of 3 values"
    )
    net = fastrnn.LSTM(1, 1, recurrent_activation=("affine", 1e37))
    one["bias_ih_l0"][:] = [1e-37, 1e-37, 1, 100]
    net.load_state_dict(one)
    said = message(lambda: net.vjp(x, check_finite=True))
    assert said.startswith("LSTM layer 0, gate o, step 0, row 0, unit 0: inf (") and said.endswith(
        ": the activation of 100 is not"
    )


def test_what_saturates_is_not_reported():
    """The outputs and the inputs are finite."""
    x = np.full((2, 1, 1), 3e38, "float32")
    for net in (fastrnn.LSTM(1, 2, seed=0), fastrnn.RNN(1, 2, nonlinearity="relu", clip=1.0, seed=0)):
        with net.updating() as flat:
            flat[:] = 10
        y, _ = net(x, check_finite=True)
        assert np.isfinite(y).all()


def test_a_stack_names_the_member():
    x = np.ones((4, 2, 3), "float32")
    net = fastrnn.Stacked([fastrnn.GRU(3, 4, seed=1), fastrnn.RNN(4, 4, nonlinearity="relu", seed=2)], residual=True)
    (y, state), backward = net.vjp(x, check_finite=True)
    dy = np.zeros_like(y)
    dy[2, 1, 3] = np.nan
    assert message(lambda: backward(dy)).startswith("member 1: dy at step 2, row 1, feature 3 is nan")
    with net.layers[1].updating() as flat:
        flat *= 1e38
    for call in (lambda: net(x, check_finite=True), lambda: net.vjp(x, check_finite=True)):
        assert re.match(r"member 1: RNN layer 0, its unit, step \d, row \d, unit \d: (inf|nan) ", message(call))


# --- gradients ----------------------------------------------------------------


def doubling(T=6, **options):
    """Return a linear RNN whose gradient doubles at each step back, and its backward."""
    net = fastrnn.RNN(3, 2, nonlinearity="linear", **options)
    params = {name: np.zeros(a.shape, "float32") for name, a in net.params.items()}
    for name in params:
        if "weight_hh" in name:
            params[name][:] = 2 * np.eye(2)
    net.load_state_dict(params)
    (y, _), backward = net.vjp(np.ones((T, 3, 3), "float32"), lengths=[T, T - 1, T], check_finite=True)
    return np.zeros_like(y), backward


def test_the_step_at_which_a_gradient_explodes_is_named():
    dy, backward = doubling()
    dy[4, 1, 1] = 1e38
    assert message(lambda: backward(dy)) == (
        "the gradient of RNN layer 0, the state h before it, step 3, row 1, unit 1: inf "
        "(the only value that is not finite in this step); "
        "dy, dstate_n and the gradients of later steps are finite"
    )
    dy, backward = doubling(bidirectional=True)
    dy[1, 2, 3] = 3e38  # in the reverse direction, whose gradient moves forward in time
    assert message(lambda: backward(dy)).startswith(
        "the gradient of RNN layer 0 (reverse), the state h before it, step 1, row 2, unit 1: inf"
    )
    dy, backward = doubling()
    dh = np.zeros((1, 3, 2), "float32")
    dh[0, 0, 0] = dy[5, 0, 0] = 3e38
    assert message(lambda: backward(dy, dh)).startswith(
        "the gradient of RNN layer 0, its unit, step 5, row 0, unit 0: inf"
    )


@pytest.mark.parametrize("two", [False, True])
def test_a_gradient_that_a_reset_cuts_off_is_not_taken_for_one_that_explodes(two):
    net = fastrnn.RNN(1, 1, nonlinearity="linear", bidirectional=two)
    params = {name: np.full(a.shape, 2.0 * ("weight_hh" in name), "float32") for name, a in net.params.items()}
    net.load_state_dict(params)
    x, resets = np.ones((8, 3, 1), "float32"), np.zeros((8, 3), bool)
    resets[4, 0] = resets[7, 1] = True
    (y, _), backward = net.vjp(x, resets=resets, lengths=[8, 7, 8], check_finite=True)
    dy = np.zeros_like(y)
    dy[4, 0, 0], dy[3, 0, -1] = 1e38, 1e38 * two  # each would be infinite two steps later
    backward(dy)
    dy[3, 1, 0] = 1e38
    assert message(lambda: backward(dy)).startswith(
        "the gradient of RNN layer 0, the state h before it, step 2, row 1, unit 0: inf"
    )
    dy[3, 1, 0], dy[3, 1, -1] = 0, 1e38
    way, step = (" (reverse)", 4) if two else ("", 2)
    assert message(lambda: backward(dy)).startswith(
        f"the gradient of RNN layer 0{way}, the state h before it, step {step}, row 1, unit 0: inf"
    )


def test_a_sum_of_finite_gradients_that_overflows_is_named_by_its_parameter():
    net = fastrnn.RNN(1, 1, nonlinearity="linear")
    net.load_state_dict({name: np.zeros(a.shape, "float32") for name, a in net.params.items()})
    (y, _), backward = net.vjp(np.ones((2, 1, 1), "float32"), check_finite=True)
    assert message(lambda: backward(np.full_like(y, 3e38))) == (
        "the gradient of the parameter weight_ih_l0 at [0, 0]; those of the gates are finite, "
        "their sum is inf (the only value that is not finite)"
    )


@pytest.mark.fuzz
def test_the_step_of_a_gradient_is_the_one_at_which_the_state_s_gradient_breaks():
    """One direction and layer of any cell: the backward of the steps from k on is finite up to the named step."""
    found = 0
    for seed in fuzz.seeds("finite: gradients", 84):
        with fuzz.named(seed):
            rng, case = drawn(seed)
            case = random_case(case.cell, 6, 3, 2, 3, dtype="float32", seed=seed)
            net = case.net()
            with net.updating() as flat:
                flat *= np.float32(rng.uniform(1, 20))
            x, state = case.x, case.layer_state()
            dy = case.dy * np.float32(10.0 ** rng.uniform(30, 38))
            if not np.isfinite(dy).all() or not np.isfinite(net(x, state)[0]).all():
                continue
            states = [state]
            for t in range(len(x)):
                states.append(net(x[t : t + 1], states[-1])[1])
            step = None
            for k in reversed(range(len(x))):
                _, backward = net.vjp(x[k:], states[k])
                g = backward(dy[k:])
                if not all(np.isfinite(a).all() for a in (*as_tuple(g.state), g.x)):
                    step = k
                    break
            _, backward = net.vjp(x, state, check_finite=True)
            if step is None:
                continue
            said = message(lambda: backward(dy))  # noqa: B023
            found += 1
            assert f", step {step}, row " in said, f"{said}\nstep {step}"
    assert found > 5 or fuzz._FIRST  # with other seeds there may be fewer


# --- a decoder with attention -------------------------------------------------


@pytest.mark.parametrize("attention", ["additive", "dot", "general"])
def test_a_decoder_names_arguments_attention_and_output(attention):
    rng = np.random.default_rng(0)
    decoder = fastrnn.AttentionDecoder(fastrnn.LSTM(3, 4, 2, seed=0), 4, attention=attention, seed=0)
    x, memory = (rng.standard_normal(shape).astype("float32") for shape in ((5, 3, 3), (6, 3, 4)))
    given = dict(lengths=[5, 4, 2], memory_lengths=[6, 3, 4])
    x[2:, 2], memory[3:, 1] = np.nan, np.inf  # padding
    for a, b in zip(
        decoder(x, memory, **given, return_attention=True, check_finite=True),
        decoder(x, memory, **given, return_attention=True),
    ):
        same_state(a, b)
    (y, _), backward = decoder.vjp(x, memory, **given, check_finite=True)
    same_bits(backward(np.ones_like(y)).flat, decoder.vjp(x, memory, **given)[1](np.ones_like(y)).flat)
    dy = np.ones_like(y)
    dy[1, 2, 3] = np.nan
    assert message(lambda: backward(dy)).startswith("dy at step 1, row 2, feature 3 is nan (the only")
    wrong = memory.copy()
    wrong[2, 1, 3] = np.nan
    assert message(lambda: decoder(x, wrong, **given, check_finite=True)).startswith(
        "memory at step 2, row 1, feature 3 is nan (the only"
    )
    if attention == "general":
        weights = {name: a.copy() for name, a in decoder.params.items()}
        weights["weight_key"][:] = 10 * np.eye(4)
        decoder.load_state_dict(weights)
        large = memory.copy()
        large[:, 2] = 3e38  # its keys are infinite, and so are all scores of the row
        said = message(lambda: decoder(x, large, **given, check_finite=True))
        assert said.startswith(
            "AttentionDecoder, attention weights, step 0, row 2, memory step 0: nan (the first of "
        ), said


def test_a_decoder_s_output_and_layers():
    rnn = fastrnn.RNN(1, 2, 2, nonlinearity="relu", seed=0)
    decoder = fastrnn.AttentionDecoder(rnn, 3, seed=0)
    weights = {name: np.zeros(a.shape, "float32") for name, a in decoder.params.items()}
    weights["rnn.bias_ih_l0"][1] = 3e38
    weights["rnn.weight_ih_l1"][0, 1] = 2.0
    decoder.load_state_dict(weights)
    x, memory = np.zeros((4, 2, 1), "float32"), np.zeros((3, 2, 3), "float32")
    said = message(lambda: decoder(x, memory, check_finite=True))
    assert said.startswith("AttentionDecoder, RNN layer 1, its unit, step 0, row 0, unit 0: inf (the first of "), said
    weights["rnn.weight_ih_l1"][:] = 0
    weights["rnn.weight_ih_l0"][0, 0] = 3e38
    x[2, 1] = 10
    decoder.load_state_dict(weights)
    said = message(lambda: decoder.vjp(x, memory, check_finite=True))
    assert said.startswith("AttentionDecoder, RNN layer 0, its unit, step 2, row 1, unit 0: inf (the "), said


# --- the option of fit ---------------------------------------------------------


def test_checking_holds_for_all_layers_of_this_thread_and_ends():
    net, x = fastrnn.GRU(1, 2, seed=0), np.full((2, 1, 1), np.nan, "float32")
    with finite.checking():
        assert message(lambda: net(x)).startswith("x at step 0, row 0, feature 0 is nan")
    assert not finite.wanted() and np.isnan(net(x)[0]).all()


def test_large_finite_numbers_are_finite():
    assert finite.is_finite(np.full(1000, 1e300)) and not finite.is_finite(np.array([1e300, np.inf]))
    assert finite.is_finite(np.full(9, 3e38, "float32")[::2]) and not finite.is_finite(
        np.array([np.nan, 1, 2], "float32")[::2]
    )
