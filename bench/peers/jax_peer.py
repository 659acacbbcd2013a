"""JAX: one jit for everything, the input product outside the scan, the best of several unroll factors."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from . import Run, stream

NAMES = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")


def rnn_cell(a, w_hh, b_hh, state):
    return (jnp.tanh(a + state[0] @ w_hh.T + b_hh),)


def gru_cell(a, w_hh, b_hh, state):
    (h,) = state
    a_r, a_z, a_n = jnp.split(a, 3, axis=-1)
    h_r, h_z, h_n = jnp.split(h @ w_hh.T + b_hh, 3, axis=-1)
    r, z = jax.nn.sigmoid(a_r + h_r), jax.nn.sigmoid(a_z + h_z)
    n = jnp.tanh(a_n + r * h_n)
    return ((1 - z) * n + z * h,)


def lstm_cell(a, w_hh, b_hh, state):
    h, c = state
    i, f, g, o = jnp.split(a + h @ w_hh.T + b_hh, 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


CELLS = {"rnn": rnn_cell, "gru": gru_cell, "lstm": lstm_cell}


def zeros(cell, B, H):
    return tuple(jnp.zeros((B, H), "float32") for _ in range(2 if cell == "lstm" else 1))


def forward(cell, unroll, x, w_ih, w_hh, b_ih, b_hh):
    """Compute y (T,B,H) from x (T,B,I)."""

    def body(state, a):
        state = CELLS[cell](a, w_hh, b_hh, state)
        return state, state[0]

    start = zeros(cell, x.shape[1], w_hh.shape[1])
    return jax.lax.scan(body, start, x @ w_ih.T + b_ih, unroll=unroll)[1]


def train(cell, unroll, dy, *inputs):
    """Compute y and the gradients of x and the parameters."""
    y, backward = jax.vjp(functools.partial(forward, cell, unroll), *inputs)
    return y, backward(dy)


class Jax:
    def __init__(self, threads):
        self.version = jax.__version__

    def runs(self, case, problem):
        if case.kind == "step":
            return {"": {"": lambda: self.step(case, problem)}}
        # 16 was never the fastest with several rows, nor in training of a gated cell, which takes 6 s to compile then
        unrolls = (1, 4, 8, 16) if case.B == 1 and (case.kind == "forward" or case.cell == "rnn") else (1, 4, 8)
        return {
            "": {
                f"unroll {n}": functools.partial(getattr(self, case.kind), case, problem, n)
                for n in unrolls
                if n <= case.T
            }
        }

    def inputs(self, problem):
        return [jax.device_put(a) for a in (problem.x, *(problem.params[name] for name in NAMES))]

    def forward(self, case, problem, unroll):
        inputs = self.inputs(problem)
        compiled = jax.jit(functools.partial(forward, case.cell, unroll)).lower(*inputs).compile()

        def call():
            return compiled(*inputs).block_until_ready()

        return Run(call, lambda: problem.outputs(call()))

    def train(self, case, problem, unroll):
        inputs = [jax.device_put(problem.dy), *self.inputs(problem)]
        compiled = jax.jit(functools.partial(train, case.cell, unroll)).lower(*inputs).compile()

        def call():
            return jax.block_until_ready(compiled(*inputs))

        def outputs():
            y, (dx, *gradients) = call()
            return problem.outputs(y, dx, dict(zip(NAMES, gradients)))

        return Run(call, outputs)

    def step(self, case, problem):
        _, w_ih, w_hh, b_ih, b_hh = self.inputs(problem)
        state = zeros(case.cell, 1, case.H)

        @functools.partial(jax.jit, donate_argnums=0)
        def one(state, x):
            return CELLS[case.cell](x @ w_ih.T + b_ih, w_hh, b_hh, state)

        def step(x):
            nonlocal state
            state = one(state, x)
            return np.asarray(state[0])

        return stream(problem, step)
