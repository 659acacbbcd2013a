"""Export layers and models of fastrnn as ONNX models."""

from __future__ import annotations

import os

import numpy as np
import onnx

from fastrnn import _check
from fastrnn._files import disk
from fastrnn.layers.recurrent import Recurrent
from fastrnn.layers.stacked import Stacked
from fastrnn.models import LanguageModel, SequenceClassifier, SequenceRegressor
from fastrnn.models.model import Model
from fastrnn.onnx import _verify, _write

OLDEST = 14

Exportable = Recurrent | Stacked | LanguageModel | SequenceClassifier | SequenceRegressor


def export(
    model: Exportable, path: str | os.PathLike | None = None, *, lengths: bool = True, state: bool | None = None,
    opset: int = 14, verify: bool = True,
) -> onnx.ModelProto:  # fmt: skip
    """Export a network as an ONNX model with one node for each layer, for any T and B.

    Parameters
    ----------
    model : RNN, GRU, LSTM, Stacked, LanguageModel, SequenceClassifier or SequenceRegressor
        A layer, or a fitted model.
    path : str or path, optional
        The file to write. By default, no file is written.
    lengths : bool, default True
        Whether the model has an input `sequence_lens`, int32 of shape (B,). Without it, all sequences have all steps.
    state : bool, optional
        Whether the model takes the initial state (h_0, and c_0 of an LSTM) and returns the final one (h_n, c_n). By
        default, networks and language models do, except layers with a learnt initial state, whose value is
        then in the file. Classifiers and regressors never do.
    opset : int, default 14
        From 14 to the newest that the installed onnx knows.
    verify : bool, default True
        Whether to run the model on random sequences and compare the outputs: in fastrnn.onnx and, for float32, in
        onnxruntime if it is installed.

    Returns
    -------
    onnx.ModelProto
        The model.

    Raises
    ------
    NotImplementedError
        If ONNX or this export does not support something in `model`. The message names it.
    ValueError
        If verification failed. No file is written.
    OSError
        If the file cannot be written. The message names it, and no part of it is left.

    Notes
    -----
    The input is x (T, B, I) and the output y (T, B, D*H), or (B, T, …) with `batch_first`. States have the same
    shapes as in a call. The names of a Stacked's states begin with the number of the member: ``1.h_0``. A
    LanguageModel takes ids (T, B), int64, and returns logits (T, B, V). A SequenceClassifier takes x and returns
    probabilities (B, K). A SequenceRegressor takes x and returns y (B, K), or (T, B, K) if it predicts per step.

    Examples
    --------
    >>> import numpy as np, fastrnn, fastrnn.onnx
    >>> lstm = fastrnn.LSTM(3, 4, bidirectional=True)
    >>> model = fastrnn.onnx.export(lstm)
    >>> [i.name for i in model.graph.input], [o.name for o in model.graph.output]
    (['x', 'sequence_lens', 'h_0', 'c_0'], ['y', 'h_n', 'c_n'])
    """
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST <= _check.size("opset", opset) <= newest:
        raise ValueError(f"opset is {opset}, but it must be from {OLDEST} to {newest}, the newest that this onnx knows")
    write = next((write for kind, write in _WRITERS.items() if isinstance(model, kind)), None)
    if write is None:
        known = ", ".join(kind.__name__ for kind in _WRITERS)
        raise NotImplementedError(
            f"{type(model).__name__} can't be exported: only {known} can; export the layers of the model one by one"
        )
    _refuse_layers(model)
    graph = _write.Graph(model.dtype, opset)
    write(graph, model, lengths, state)
    made = graph.model(type(model).__name__)
    onnx.checker.check_model(made, full_check=True)
    if verify:
        _verify.exported(model, made)
    if path is not None:
        data = made.SerializeToString()
        disk.write_output(path, lambda file: file.write_all([data]))
    return made


def _refuse_layers(model):
    if isinstance(model, Model):
        model._check_fitted()
        model = model.rnn
    for layer in getattr(model, "layers", [model]):
        reason = _write.refusal(layer)
        if reason is not None:
            raise NotImplementedError(f"{layer!r} can't be exported: ONNX has no {reason}")


def _network(graph, net, x, lengths, state):
    """Add a layer or a Stacked that reads x (T, B, I), with inputs and outputs for its states.

    Returns y (T, B, D*P) and the last h_n.
    """
    members = list(getattr(net, "layers", [net]))
    for k, layer in enumerate(members):
        prefix = f"{k}." if isinstance(net, Stacked) else ""
        given = (not layer.learn_initial_state) if state is None else state
        sizes = list(zip(layer.cell.states, layer.state_sizes))
        rows = layer.num_layers * layer.num_directions
        if given:
            initial = [graph.input(prefix + name, (rows, "B", size)) for name, size in sizes]
        else:
            initial = _learnt(graph, layer, x) if layer.learn_initial_state else None
        y, final = _write.recurrent(graph, layer, x, lengths, initial)
        if given:
            for (name, size), value in zip(sizes, final):
                graph.output(prefix + name.replace("_0", "_n"), value, (rows, "B", size))
        x = graph.node("Add", [y, x]) if k and net.residual else y
    return x, final[0]


def _learnt(graph, layer, x):
    """The learnt initial state, for as many sequences as x has."""
    B = graph.node("Gather", [graph.node("Shape", [x]), graph.constant("axis", np.array([1]))])
    one = graph.constant("one", np.array([1]))
    shape = graph.node("Concat", [one, B, one], axis=0)
    return [
        graph.node("Expand", [graph.constant(name, layer.params[name][:, None]), shape]) for name in layer.cell.states
    ]


def _layer(graph, net, lengths, state):
    axes = ("B", "T") if net.batch_first else ("T", "B")
    x = graph.input("x", (*axes, net.input_size))
    lens = graph.input("sequence_lens", ("B",), "int32") if lengths else ""
    x = graph.transposed(x) if net.batch_first else x
    y, _ = _network(graph, net, x, lens, state)
    graph.output("y", graph.transposed(y) if net.batch_first else y, (*axes, net.output_size))
    _first(graph, "y")


def _first(graph, name):
    """Move this output to the first place."""
    graph.outputs.sort(key=lambda output: output.name != name)


def _linear(graph, linear, x):
    y = graph.node("MatMul", [x, graph.constant("weight", linear.params["weight"].T)])
    return graph.node("Add", [y, graph.constant("bias", linear.params["bias"])]) if "bias" in linear.params else y


def _language_model(graph, model, lengths, state):
    ids = graph.input("ids", ("T", "B"), "int64")
    lens = graph.input("sequence_lens", ("B",), "int32") if lengths else ""
    x = graph.node("Gather", [graph.constant("embedding", model.embedding.params["weight"]), ids])
    y, _ = _network(graph, model.rnn, x, lens, state)
    graph.output("logits", _linear(graph, model.linear, y), ("T", "B", model.linear.out_features))
    _first(graph, "logits")


def _pooled(graph, model, lengths, state):
    """Add a model's scaling, network, pooling and linear layer; returns the output and its leading axes."""
    if state:
        raise NotImplementedError(f"state=True: a {type(model).__name__} reads whole sequences and carries no state")
    x = graph.input("x", ("T", "B", model.rnn.input_size))
    lens = graph.input("sequence_lens", ("B",), "int32") if lengths else ""
    x = _scaled(graph, model._scaler, x)
    y, h_n = _network(graph, model.rnn, x, lens, False)
    per_step = getattr(model, "per_step", False)
    pooled = (
        y
        if per_step
        else {"last": _last, "mean": _mean, "max": _greatest}[model.pooling](graph, model.rnn, y, h_n, lens)
    )
    return _linear(graph, model.linear, pooled), ("T", "B") if per_step else ("B",)


def _scaled(graph, scaler, x):
    if not hasattr(scaler, "mean"):
        return x
    return graph.node(
        "Mul",
        [graph.node("Sub", [x, graph.constant("mean", scaler.mean)]), graph.constant("scale", 1 / scaler.deviation)],
    )


def _last(graph, net, y, h_n, lens):
    """(B, D*H): the final states of the top layer side by side."""
    top = getattr(net, "layers", [net])[-1]
    rows = np.arange(-top.num_directions, 0) + top.num_layers * top.num_directions
    turned = graph.transposed(graph.node("Gather", [h_n, graph.constant("rows", rows)]))
    return graph.node("Reshape", [turned, graph.constant("shape", np.array([0, net.output_size]))])


def _mean(graph, net, y, h_n, lens):
    axes = graph.constant("axis", np.array([0]))
    total = graph.node("ReduceSum", [y, axes], keepdims=0)
    kind = onnx.helper.np_dtype_to_tensor_dtype(graph.dtype)
    if lens:
        steps = graph.node("Unsqueeze", [graph.node("Cast", [lens], to=kind), graph.constant("axis", np.array([1]))])
    else:
        steps = graph.node("Cast", [graph.node("Gather", [graph.node("Shape", [y]), axes])], to=kind)
    return graph.node("Div", [total, steps])


def _greatest(graph, net, y, h_n, lens):
    if lens:
        T = graph.node("Gather", [graph.node("Shape", [y]), graph.constant("axis", np.array(0))])
        steps = graph.node("Range", [graph.constant("zero", np.array(0)), T, graph.constant("one", np.array(1))])
        steps = graph.node("Unsqueeze", [steps, graph.constant("axes", np.array([1, 2]))])
        ends = graph.node(
            "Unsqueeze",
            [graph.node("Cast", [lens], to=onnx.TensorProto.INT64), graph.constant("axes", np.array([0, 2]))],
        )
        y = graph.node("Where", [graph.node("Less", [steps, ends]), y, graph.constant("never", np.array(-np.inf))])
    if graph.opset < 18:  # from then on, axes is an input
        return graph.node("ReduceMax", [y], axes=[0], keepdims=0)
    return graph.node("ReduceMax", [y, graph.constant("axis", np.array([0]))], keepdims=0)


def _classifier(graph, model, lengths, state):
    logits, axes = _pooled(graph, model, lengths, state)
    graph.output("probabilities", graph.node("Softmax", [logits], axis=-1), (*axes, model.linear.out_features))


def _regressor(graph, model, lengths, state):
    y, axes = _pooled(graph, model, lengths, state)
    scaler = model._target_scaler
    if hasattr(scaler, "mean"):
        y = graph.node(
            "Add",
            [graph.node("Mul", [y, graph.constant("scale", scaler.deviation)]), graph.constant("mean", scaler.mean)],
        )
    graph.output("y", y, (*axes, model.linear.out_features))


_WRITERS = {
    Recurrent: _layer, Stacked: _layer, LanguageModel: _language_model,
    SequenceClassifier: _classifier, SequenceRegressor: _regressor,
}  # fmt: skip
