"""Random networks and the data to run them on, for the tests of the engine."""

from dataclasses import dataclass, field

import numpy as np
import reference

import fastrnn

CELLS = list(reference.CELLS)
DTYPES = ["float32", "float64"]

MAKERS = {
    "rnn_tanh": (fastrnn.RNN, {}),
    "rnn_relu": (fastrnn.RNN, {"nonlinearity": "relu"}),
    "rnn_sigmoid": (fastrnn.RNN, {"nonlinearity": "sigmoid"}),
    "gru": (fastrnn.GRU, {}),
    "gru_before": (fastrnn.GRU, {"reset_after": False}),
    "lstm": (fastrnn.LSTM, {}),
    "rnn_options": (fastrnn.RNN, {"nonlinearity": ("leaky_relu", 0.3), "clip": 0.9}),
    "gru_options": (
        fastrnn.GRU,
        {"recurrent_activation": ("hard_sigmoid", 0.2, 0.5), "activation": "softsign", "clip": 0.8},
    ),
    "gru_before_options": (fastrnn.GRU, {"reset_after": False, "activation": ("elu", 0.7), "clip": 1.1}),
    "lstm_options": (
        fastrnn.LSTM,
        {
            "recurrent_activation": "hard_sigmoid",
            "activation": ("scaled_tanh", 0.9, 1.2),
            "output_activation": "softplus",
            "clip": 0.7,
        },
    ),
    "lstm_peephole": (fastrnn.LSTM, {"peephole": True}),
    "lstm_coupled": (fastrnn.LSTM, {"coupled": True}),
    "lstm_projected": (fastrnn.LSTM, {"proj_size": "half"}),
    "lstm_everything": (
        fastrnn.LSTM,
        {
            "coupled": True,
            "peephole": True,
            "proj_size": "half",
            "activation": "silu",
            "output_activation": "softsign",
            "clip": 1.2,
        },
    ),
}


def features(cell, H):
    """Return the number of features of h: half of the units if the cell projects (one unit alone is not projected)."""
    return H // 2 or H if "proj_size" in MAKERS[cell][1] else H


def state_sizes(cell, H):
    """Return the number of features of h, and of c if there is one."""
    return (features(cell, H), H)[: reference.CELLS[cell][2]]


def make(cell, input_size, hidden_size, num_layers=1, params=None, **options):
    """Return a layer of this cell; `params` are all parameters by torch's names."""
    maker, fixed = MAKERS[cell]
    if "proj_size" in fixed:
        fixed = {**fixed, "proj_size": hidden_size // 2}
    net = maker(input_size, hidden_size, num_layers, **fixed, **options)
    if params is not None:
        net.load_state_dict(params)
    return net


def shapes(cell, I, H, num_layers=1, bidirectional=False, context=0, bias=True):
    """Return the names and shapes of the parameters, as in torch."""
    rows, P, fixed = reference.CELLS[cell][1] * H, features(cell, H), MAKERS[cell][1]
    D = 2 if bidirectional else 1
    result = {}
    for layer in range(num_layers):
        for suffix in ["", "_reverse"][:D]:
            end = f"_l{layer}{suffix}"
            result["weight_ih" + end] = (rows, I if layer == 0 else D * P)
            result["weight_hh" + end] = (rows, P)
            if bias:
                result["bias_ih" + end] = result["bias_hh" + end] = (rows,)
            if P < H:
                result["weight_hr" + end] = (P, H)
            if fixed.get("peephole"):
                result["weight_peephole" + end] = (rows - H,)
            if context and layer == 0:
                result["weight_ch" + end] = (rows, context)
    return result


def random_params(rng, cell, *sizes, dtype="float64", **options):
    """Return parameters large enough to use every gate, small enough that relu does not explode."""
    return {
        name: ((0.8 * rng.standard_normal(shape)) / (np.sqrt(max(1, shape[1])) if len(shape) == 2 else 1)).astype(dtype)
        for name, shape in shapes(cell, *sizes, **options).items()
    }


def as_state(arrays):
    """Return the state in the form of the layers: one array, or the LSTM's pair."""
    return arrays[0] if len(arrays) == 1 else tuple(arrays)


def as_tuple(state):
    """Return the state as a tuple of arrays, whatever the cell."""
    return tuple(state) if isinstance(state, tuple) else (state,)


@dataclass(repr=False)
class Case:
    """A network with every kind of argument, and the gradients of its outputs."""

    cell: str
    dtype: str
    options: dict
    params: dict
    x: np.ndarray
    state: tuple | None
    given: dict = field(default_factory=dict)  # lengths, resets, context: those that are used
    dy: np.ndarray | None = None
    dstate: tuple | None = None

    def __repr__(self):
        """Return the sizes only: hypothesis prints its examples, and the arrays would fill pages."""
        return (
            f"Case({self.cell}, {self.dtype}, {self.options}, x {self.x.shape}, H={self.H}, given {list(self.given)})"
        )

    @property
    def I(self):
        return self.x.shape[2]

    @property
    def H(self):
        return self.params["weight_hh_l0"].shape[0] // reference.CELLS[self.cell][1]

    def net(self, **more):
        """Return a new layer. Packed weights belong to one instruction set, so no layer is shared between tests."""
        options = {**self.options, **more}
        if "context" in self.given:
            options["context_size"] = self.given["context"].shape[1]
        return make(self.cell, self.I, self.H, options.pop("num_layers", 1), self.params, dtype=self.dtype, **options)

    def layer_state(self):
        return None if self.state is None else as_state(self.state)

    def layer_dstate(self):
        return as_state(self.dstate)

    def reference(self, params=None, x=None, state=None, context=None):
        """Return y and state_n in float64, with some of the arrays replaced."""
        given = dict(self.given)
        if context is not None:
            given["context"] = context
        return reference.run(
            self.cell,
            self.params if params is None else params,
            self.x if x is None else x,
            self.state if state is None else state,
            num_layers=self.options.get("num_layers", 1),
            bidirectional=self.options.get("bidirectional", False),
            **given,
        )


def random_lengths(rng, T, B):
    """Return lengths in any order, with a 0 and a T among them if there is room."""
    lengths = rng.integers(0, T + 1, B)
    if B > 1:
        lengths[rng.integers(B)] = T
    if B > 2:
        lengths[np.flatnonzero(lengths < T)[:1]] = 0
    return lengths


def random_case(
    cell,
    T,
    B,
    I,
    H,
    *,
    dtype="float64",
    seed=0,
    state=True,
    lengths=False,
    resets=False,
    context=0,
    num_layers=1,
    bidirectional=False,
    bias=True,
):
    """Return the case; the same arguments give the same numbers, and float32 numbers are exact in float64."""
    rng = np.random.default_rng([seed, T, B, I, H, CELLS.index(cell)])
    D = 2 if bidirectional else 1
    sizes = state_sizes(cell, H)

    def draw(*shape):
        return rng.standard_normal(shape).astype("float32").astype(dtype)

    options = {"num_layers": num_layers, "bidirectional": bidirectional}
    params = random_params(rng, cell, I, H, dtype="float32", context=context, bias=bias, **options)
    given = {}
    if lengths:
        given["lengths"] = random_lengths(rng, T, B)
    if resets:
        given["resets"] = rng.random((T, B)) < 0.3
    if context:
        given["context"] = draw(B, context)
    if not bias:
        options["bias"] = False
    return Case(
        cell,
        dtype,
        options,
        {name: p.astype(dtype) for name, p in params.items()},
        draw(T, B, I),
        tuple(draw(num_layers * D, B, size) for size in sizes) if state else None,
        given,
        draw(T, B, D * sizes[0]),
        tuple(draw(num_layers * D, B, size) for size in sizes),
    )


def same_bits(got, want, what=""):
    """Assert equal dtype, shape and bytes: NaN equals the same NaN, and -0.0 differs from 0.0."""
    assert got.dtype == want.dtype and got.shape == want.shape, (
        f"{what}: {got.dtype} {got.shape} is not {want.dtype} {want.shape}"
    )
    if got.tobytes() != want.tobytes():
        unsigned = f"u{got.itemsize}"
        different = np.ascontiguousarray(got).view(unsigned) != np.ascontiguousarray(want).view(unsigned)
        first = tuple(np.argwhere(different)[0])
        raise AssertionError(
            f"{what}: {different.sum()} of {got.size} elements differ, "
            f"the first at {first}: {got[first]!r} is not {want[first]!r}"
        )


def same_state(got, want, what="state"):
    for k, (a, b) in enumerate(zip(as_tuple(got), as_tuple(want), strict=True)):
        same_bits(a, b, f"{what}[{k}]")


def same_gradients(got, want, what="gradients"):
    """Compare two Gradients bit for bit."""
    for name in ("x", "context", "embedding", "flat"):
        a, b = getattr(got, name), getattr(want, name)
        assert (a is None) == (b is None), f"{what}.{name}"
        if a is not None:
            same_bits(a, b, f"{what}.{name}")
    same_state(got.state, want.state, f"{what}.state")
    assert set(got.params) == set(want.params)
    for name in want.params:
        same_bits(got.params[name], want.params[name], f"{what}.{name}")


def call(net, case):
    return net(case.x, case.layer_state(), **case.given)


def gradients(net, case):
    _, backward = net.vjp(case.x, case.layer_state(), **case.given)
    return backward(case.dy, case.layer_dstate())


def check_threads(case, counts=(2, 3, 5)):
    """Assert that outputs, outputs of vjp and all gradients are those on one thread, bit for bit."""
    net = case.net()

    def everything():
        outputs, backward = net.vjp(case.x, case.layer_state(), **case.given)
        return call(net, case), outputs, backward(case.dy, case.layer_dstate())

    with fastrnn.threads(1):
        want, _, g = everything()
    for n in counts:
        with fastrnn.threads(n):
            called, trained, other_g = everything()
        for (y, state), how in ((called, "the call"), (trained, "vjp")):
            same_bits(y, want[0], f"y of {how} on {n} threads")
            same_state(state, want[1], f"state of {how} on {n} threads")
        same_gradients(other_g, g, f"gradients on {n} threads")
