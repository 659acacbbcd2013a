"""Compare a model's gradient with central differences of its loss, through the whole model, in random directions."""

import numpy as np
from numpy.testing import assert_allclose


def assert_gradient(model, batch, *, state=None, directions=4, rtol=1e-6, rng=7):
    """The loss is the model's own; dropout masks depend only on `rng`, so they are the same in each evaluation."""
    gradient, scratch = np.zeros_like(model.storage.flat), np.zeros_like(model.storage.flat)
    assert model.storage.dtype == np.float64
    loss, _ = model.loss_and_gradient(batch, state, into=gradient, rng=rng)
    flat, draw = model.storage.flat.copy(), np.random.default_rng(0)

    def loss_at(parameters):
        with model.storage.updating() as values:
            values[:] = parameters
        return model.loss_and_gradient(batch, state, into=scratch, rng=rng)[0]

    for _ in range(directions):
        direction = draw.standard_normal(flat.size)
        numeric = (loss_at(flat + 1e-6 * direction) - loss_at(flat - 1e-6 * direction)) / 2e-6
        assert_allclose(gradient @ direction, numeric, rtol=rtol, atol=1e-9)
    # a missing parameter would have too small an effect to be noticed among all others
    for name, slot in model.slots.items():
        direction = np.zeros(flat.size)
        direction[slot.slice] = draw.standard_normal(slot.size)
        numeric = (loss_at(flat + 1e-6 * direction) - loss_at(flat - 1e-6 * direction)) / 2e-6
        assert_allclose(gradient @ direction, numeric, rtol=rtol, atol=1e-9, err_msg=name)
        assert numeric != 0, f"the loss does not depend on {name}"
    loss_at(flat)
    return loss
