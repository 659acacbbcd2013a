"""Compare an ONNX model on random sequences with the network that it was exported from or loaded as."""

from __future__ import annotations

import importlib.util

import numpy as np

from fastrnn.layers.stacked import Stacked
from fastrnn.models import LanguageModel, SequenceClassifier, SequenceRegressor
from fastrnn.onnx._backend import prepare

T, B = 6, 3
TOLERANCE = {"float32": 1e-5, "float64": 1e-9}


def exported(model, proto):
    """Raise a ValueError if an exported model computes other values, in fastrnn.onnx or in onnxruntime."""
    feeds, wanted = probe(model, {i.name for i in proto.graph.input}, {o.name for o in proto.graph.output})
    found = {"fastrnn.onnx": prepare(proto).run(feeds)}
    if model.dtype == np.float32 and importlib.util.find_spec("onnxruntime"):
        found["onnxruntime"] = _session(proto).run(None, feeds)
    for runtime, outputs in found.items():
        for output, got in zip(proto.graph.output, outputs, strict=True):
            compare(f"the exported model's output {output.name!r} in {runtime}", got, wanted[output.name])


def compare(what, got, want):
    """Raise a ValueError if two arrays differ by more than rounding."""
    if got.shape != want.shape:
        raise ValueError(f"verification failed: {what} has shape {got.shape}, but it should be {want.shape}")
    worst, limit = distance(got, want)
    if not worst <= limit:
        raise ValueError(
            f"verification failed: {what} differs by up to {worst:.3g}, more than {limit:.3g}; verify=False skips this "
            "comparison"
        )


def distance(got, want):
    """(greatest difference, greatest difference that counts as rounding)."""
    scale = max(1.0, float(np.abs(want).max(initial=0)))
    return float(np.abs(got - want).max(initial=0)), TOLERANCE[want.dtype.name] * scale


def by_onnxruntime(proto, feeds):
    """The outputs that onnxruntime computes; None if it is not installed or does not support the model."""
    if not importlib.util.find_spec("onnxruntime"):
        return None
    try:
        return _session(proto).run(None, feeds)
    except Exception:  # it raises many classes of error, none of them public
        return None


def _session(proto):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def probe(model, inputs, outputs):
    """({input: array}, {output: array}): random sequences, and what the layer or model itself computes from them."""
    rng = np.random.default_rng(0)
    lengths = np.array([T, 1, T // 2], "int32") if "sequence_lens" in inputs else None
    feeds = {} if lengths is None else {"sequence_lens": lengths}
    if isinstance(model, (SequenceClassifier, SequenceRegressor)):
        return _whole_sequences(model, feeds, lengths, rng)
    language = isinstance(model, LanguageModel)
    net = model.rnn if language else model
    state, named = _state(net, inputs, rng)
    if language:
        x = feeds["ids"] = rng.integers(0, len(model.vocabulary), (T, B))
        y, final = net(x, state, lengths=lengths, embedding=model.embedding)
        wanted = {"logits": model.linear(y)}
    else:
        x = feeds["x"] = rng.standard_normal(
            (B, T, net.input_size) if net.batch_first else (T, B, net.input_size)
        ).astype(net.dtype)
        y, final = net(x, state, lengths=lengths)
        wanted = {"y": np.ascontiguousarray(y)}
    for prefix, layer, value in _members(net, final):
        wanted |= {
            prefix + name.replace("_0", "_n"): s
            for name, s in zip(layer.cell.states, value if layer.cell.has_c else [value])
        }
    return feeds | named, {name: wanted[name] for name in outputs}


def _members(net, state):
    """(prefix, layer, state) of a layer, or of each member of a Stacked."""
    if not isinstance(net, Stacked):
        return [("", net, state)]
    return [(f"{k}.", layer, s) for k, (layer, s) in enumerate(zip(net.layers, state))]


def _state(net, inputs, rng):
    """A random state as the network takes it, with None for layers whose state is not an input, and {name: array}."""
    named, states = {}, []
    for prefix, layer, _ in _members(net, [None] * len(getattr(net, "layers", ""))):
        rows, has_c = layer.num_layers * layer.num_directions, layer.cell.has_c
        made = {
            prefix + n: (rng.standard_normal((rows, B, size)) / 2).astype(layer.dtype)
            for n, size in zip(layer.cell.states, layer.state_sizes)
        }
        if prefix + "h_0" not in inputs:
            states.append(None)
            continue
        named |= made
        states.append(tuple(made.values()) if has_c else made[prefix + "h_0"])
    return tuple(states) if isinstance(net, Stacked) else states[0], named


def _whole_sequences(model, feeds, lengths, rng):
    x = rng.standard_normal((T, B, model.rnn.input_size)).astype(model.dtype)
    ends = [T] * B if lengths is None else lengths
    sequences = [x[:end, b] for b, end in enumerate(ends)]
    if isinstance(model, SequenceClassifier):
        return feeds | {"x": x}, {"probabilities": model.predict_proba(sequences)}
    if model.per_step:  # after the end of a sequence, the linear layer is applied to zeros
        y, _ = model.rnn(model._scaler(x).astype(x.dtype), lengths=lengths)
        return feeds | {"x": x}, {"y": model._target_scaler.undo(model.linear(y)).astype(x.dtype)}
    return feeds | {"x": x}, {"y": model.predict(sequences).astype(x.dtype).reshape(B, -1)}
