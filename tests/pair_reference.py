"""The reference for models of pairs: one pair, one step at a time, float64, independent of the engine."""

import numpy as np
import reference

NAMES = {"rnn": "rnn_tanh", "gru": "gru", "lstm": "lstm"}


def log_likelihood(model, source, target):
    """Return the log-probability of a target and its end.

    source : ids of an EncoderDecoder, or the scaled vector
    target : ids without the end
    """
    values = {name: np.asarray(slot.view(model.storage.flat), float) for name, slot in model.slots.items()}
    cell, H, layers, _ = model._decoder
    vector, state, memory = np.asarray(source, float), None, None
    if "encoder.weight_ih_l0" in values:
        vector, state, memory = encoded(model, part(values, "encoder"), values["source_table.weight"][source])
    states = 2 if cell == "lstm" else 1
    if model.context not in ("initial", "both"):
        state = (np.zeros((layers, 1, H)),) * states
    elif "bridge.weight" in values:
        z = np.tanh(values["bridge.weight"] @ vector + values["bridge.bias"])
        state = tuple(z.reshape(states, layers, 1, H))
    context = vector[None] if model.context in ("every", "both") else None
    own = part(values, "decoder")
    rnn = part(own, "rnn") if memory is not None and model.attention else own
    feed, total = np.zeros(H), 0.0
    if "weight_feed" in own:
        rnn["weight_ih_l0"] = np.concatenate([rnn["weight_ih_l0"], own["weight_feed"]], 1)
    table = values["target_table.weight"]
    for before, symbol in zip([len(table) - 1, *target], [*target, 0]):
        x = np.concatenate([table[before], feed]) if "weight_feed" in own else table[before]
        y, state = reference.run(NAMES[cell], rnn, x[None, None], state, context=context, num_layers=layers)
        out = y[0, 0]
        if model.attention:
            feed = out = attended(model.attention, own, out, memory)
        logits = values["linear.weight"] @ out + values["linear.bias"]
        total += logits[symbol] - np.log(np.exp(logits).sum())
    return total


def part(values, name):
    return {key.removeprefix(f"{name}."): value for key, value in values.items() if key.startswith(f"{name}.")}


def encoded(model, params, x):
    y, state = reference.run(
        NAMES[model.cell], params, x[:, None], num_layers=model.num_layers, bidirectional=model.bidirectional
    )
    top = state[0][-2:] if model.bidirectional else state[0][-1:]
    return np.concatenate(list(top[:, 0])), state, y[:, 0]


def attended(kind, p, s, memory):
    if kind == "additive":
        scores = np.array([p["weight_score"] @ np.tanh(p["weight_query"] @ s + p["weight_key"] @ m) for m in memory])
    else:
        scores = np.array([s @ (p["weight_key"] @ m if kind == "general" else m) for m in memory])
    weights = np.exp(scores) / np.exp(scores).sum()
    return np.tanh(p["weight_out"] @ np.concatenate([weights @ memory, s]) + p["bias_out"])
