"""Conversion of model files of PyTorch, ONNX and Keras to fastrnn and back. The result is compared with the source."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastrnn._files import disk, foreign, storage
from fastrnn.convert import c_trial, state_dict, tensor_files
from fastrnn.convert.c_models import Exported
from fastrnn.convert.c_source import export_c, identifier
from fastrnn.convert.language_models import language_model, read_text, read_vocabulary
from fastrnn.convert.tensor_files import read_ordered, read_torch
from fastrnn.layers.network import Network
from fastrnn.layers.rnn import GRU, LSTM, RNN

_OUT = (".onnx", ".pt", ".pth", ".safetensors", ".c")


def convert(
    source: str | os.PathLike[str], destination: str | os.PathLike[str], *, key: str | None = None,
    order: str | Sequence[str] | None = None, between: str | Mapping[str, str] | None = None,
    nonlinearity: str = "tanh", config: str | os.PathLike[str] | None = None,
    vocabulary: str | os.PathLike[str] | None = None,
) -> list[str]:  # fmt: skip
    """Convert a model file, and compare the result with the source.

    The model is read, compared with its source, written, and read again.

    Parameters
    ----------
    source : str or os.PathLike
        File of PyTorch (a state_dict), .safetensors, .onnx, .keras or .h5, or a directory of fastrnn. The format is
        detected from the content.
    destination : str or os.PathLike
        Directory, or file whose suffix determines the format: .onnx, .pt or .pth (PyTorch's state_dict), .safetensors,
        .c (see `export_c`). It must not exist.
    key : str, optional
        Key of the state_dict, if the file holds a dict with more than that.
    order : str or sequence of str, optional
        Order in which the layers of a state_dict are used, "a,b,c" or a list. Required if neither the file nor the
        sizes of the layers determine it; see `state_dict.to_network`.
    between : str or dict, optional
        Function after a Linear that another layer of a state_dict follows: "relu", "a=relu,b=none", or a dict.
    nonlinearity : {"tanh", "relu"}, default "tanh"
        Activation of vanilla layers in a state_dict, which does not contain it.
    config : str or os.PathLike, optional
        File with the result of the model's to_json(), for a .weights.h5 file.
    vocabulary : str or os.PathLike, optional
        JSON file with the list of the characters in the order of their ids, or an object {character: id}. The result is
        then a LanguageModel.

    Returns
    -------
    list of str
        Lines that say what was done.

    Raises
    ------
    ValueError
        The file is damaged, or the model cannot be represented in fastrnn or in the other format. Nothing is written.
    """
    source, destination = Path(source), Path(destination)
    _check_free(destination)
    model, said = _read(source, _Options(key, order, between, nonlinearity, config))
    if vocabulary is not None:
        model = language_model(model, read_vocabulary(vocabulary))
        said.append(f"made a language model of {len(model.vocabulary)} characters")
    _check_free(destination)  # another process may have written it in the meantime
    new = not destination.exists()
    try:
        said.append(_write(model, destination))
    except BaseException:
        if new:
            with contextlib.suppress(OSError):  # it does not exist, or another process wrote to it
                destination.rmdir()
        raise
    return said


def _check_free(destination):
    """Refuse a destination that exists."""
    if storage.holds_anything(destination) if destination.is_dir() else destination.exists():
        raise ValueError(f"{destination} already exists: choose another name, or remove it first")


@dataclass(frozen=True)
class _Options:
    """Options that describe the source."""

    key: str | None
    order: str | list | None
    between: str | dict | None
    nonlinearity: str
    config: str | None

    def refuse(self, kind, *names):
        """Raise if one of these options is given, which do not apply to this kind of source."""
        for name in names:
            if getattr(self, name) not in (None, "tanh" if name == "nonlinearity" else None):
                raise ValueError(f"--{name} {getattr(self, name)} does not apply to {kind}: leave it out")


def _read(source, options):
    """Read a model; returns it and a list of lines that describe what was read."""
    if source.is_dir():
        from fastrnn.models.loading import load

        options.refuse("a directory of fastrnn", "key", "order", "between", "nonlinearity", "config")
        model = load(source)
        return model, [f"read {type(model).__name__}, {model.num_parameters} parameters"]
    kind = sniff(source)
    if kind in ("torch", "safetensors"):
        return _read_state_dict(source, kind, options)
    options.refuse(f"{kind} files", "key", "order", "between", "nonlinearity")
    if kind == "onnx":
        from fastrnn.onnx._load import load_compared

        options.refuse("onnx files", "config")
        net, compared = load_compared(source)
        net = Network({"rnn": net})
    else:
        import fastrnn.keras

        net = fastrnn.keras.load(source, None if options.config is None else read_text(options.config))
        rest = sorted(
            {
                type(layer).__name__.replace("Linear", "Dense")
                for layer in net.layers.values()
                if not isinstance(layer, (GRU, LSTM, RNN))
            }
        )
        compared = "each recurrent layer alone agrees with a float64 reference of Keras' definitions; "
        rest = [*(f"{name} layers" for name in rest), "the outputs of the whole network"]
        compared += f"{', '.join(rest)} were not compared with anything"
    return net, [f"read {net!r}, {net.num_parameters} parameters; {compared}"]


def _read_state_dict(source, kind, options):
    options.refuse("state_dicts", "config")
    with foreign.reading(source):
        return _of_state_dict(source, kind, options)


def _of_state_dict(source, kind, options):
    if kind == "torch":
        tensors, kept, tied = read_torch(source, options.key), True, {}
    else:
        options.refuse("safetensors files", "key")
        tensors, kept, tied = read_ordered(source)
    order = [name.strip() for name in options.order.split(",")] if isinstance(options.order, str) else options.order
    net, said = state_dict.read(
        tensors, order=order, between=_parsed_between(options.between), kept=kept, nonlinearity=options.nonlinearity
    )
    said += [f"{name} is {other}, as the file says of tied weights" for name, other in tied.items()]
    vanilla = any(type(layer) is RNN for layer in net.layers.values())
    if vanilla:
        said.append(f"nonlinearity {options.nonlinearity!r} is assumed, as a state_dict does not contain it")
    else:
        options.refuse("a state_dict without vanilla layers", "nonlinearity")
    first = f"read {net!r} from {len(tensors)} tensors, {net.num_parameters} parameters"
    first += "; x is (T, B, features), or ids (T, B), whatever batch_first was"
    return net, [first, *said, compare_with_torch(net, tensors)]


def _parsed_between(text):
    """Parse "a=relu,b=none" to {layer: function}; other values are returned unchanged."""
    if not isinstance(text, str) or "=" not in text:
        return text
    pairs = [part.strip().rpartition("=")[::2] for part in text.split(",")]
    names = [name for name, _ in pairs]
    if not all(names) or len(set(names)) < len(names):
        raise ValueError(
            f"--between {text} must be one function, or NAME=FUNCTION for different layers, separated by commas"
        )
    return dict(pairs)


def sniff(path):
    """Detect the format from the content: "torch", "safetensors", "keras" or "onnx"; otherwise raise a ValueError."""
    foreign.check_regular(path)
    with open(path, "rb") as file:
        head = file.read(9)
    if head[:4] == b"PK\x03\x04":
        try:
            names = zipfile.ZipFile(path).namelist()
        except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
            raise ValueError(f"{path} is cut short or damaged: {error}") from None
        return "keras" if "config.json" in names else "torch"
    if head[:8] == b"\x89HDF\r\n\x1a\n":
        return "keras"
    if head[8:] == b"{":
        return "safetensors"
    if head[:1] == b"\x80":
        raise ValueError(
            f"{path} is a plain pickle file, which fastrnn does not read: save it again with PyTorch 1.6 or later, "
            "torch.save(module.state_dict(), …), which writes a zip file"
        )
    if path.suffix == ".onnx":
        return "onnx"
    raise ValueError(f"{path} is not a torch, safetensors, ONNX or Keras file: its first bytes are {head!r}")


def compare_with_torch(net, tensors):
    """Compare the outputs of each layer on random input with torch's; returns the line that says what was compared."""
    try:
        import torch
    except ImportError:
        return "torch is not installed: outputs were NOT compared with torch's"
    rng, worst = np.random.default_rng(0), 0.0
    bound = 1e-4 if net.dtype == np.float32 else 1e-10
    for name, own in state_dict.modules(tensors).items():
        layer = net.layers[name]
        ids = hasattr(layer, "num_embeddings")
        x = (
            rng.integers(0, layer.num_embeddings, (7, 3))
            if ids
            else rng.standard_normal((7, 3, _width(layer))).astype(net.dtype)
        )
        with torch.no_grad():
            want = _torch_module(layer, {key: torch.from_numpy(np.array(a)) for key, a in own.items()})(
                torch.from_numpy(x)
            )
        want = (want[0] if isinstance(want, tuple) else want).numpy()
        got = layer(x)
        largest = float(np.abs((got[0] if isinstance(got, tuple) else got) - want).max())
        if not largest <= bound * max(1.0, float(np.abs(want).max())):
            raise ValueError(
                f"outputs of {name!r} differ from torch's by up to {largest:.3g}: please report this file; nothing "
                "was written"
            )
        worst = max(worst, largest)
    return (
        f"each layer alone agrees with torch's on random input, to {worst:.1e}; the chain of them was NOT compared, as "
        "no file contains your module's forward"
    )


def _width(layer):
    return layer.in_features if hasattr(layer, "in_features") else layer.input_size


def _torch_module(layer, own):
    """Construct the same layer in torch. The parameters of a cell get the names of those of a layer."""
    from torch import nn

    dtype = {"float32": nn.Module.float, "float64": nn.Module.double}[str(layer.dtype)]
    if hasattr(layer, "num_embeddings"):
        module = nn.Embedding(layer.num_embeddings, layer.embedding_dim)
    elif hasattr(layer, "in_features"):
        module = nn.Linear(layer.in_features, layer.out_features, "bias" in layer.params)
    else:
        more = {name: value for name in ("nonlinearity", "proj_size") if (value := getattr(layer, name, None))}
        module = getattr(nn, type(layer).__name__)(
            layer.input_size,
            layer.hidden_size,
            layer.num_layers,
            bias=layer.bias,
            bidirectional=layer.bidirectional,
            **more,
        )
        own = {key if "_l" in key else f"{key}_l0": tensor for key, tensor in own.items()}
    module = dtype(module)
    module.load_state_dict(own)
    return module


def _write(model, destination):
    """Write a model, read it again and compare; returns a line that says so. A file that differs is removed."""
    suffix = destination.suffix.lower()
    if suffix == ".onnx":
        import fastrnn.onnx

        alone = isinstance(model, Network) and len(model.steps) == 1
        layer = next(iter(model.layers.values())) if alone else model
        fastrnn.onnx.export(layer, destination)
        where = (
            "fastrnn.onnx and onnxruntime"
            if layer.dtype == np.float32 and importlib.util.find_spec("onnxruntime")
            else "fastrnn.onnx alone"
        )
        return f"wrote {destination}; its outputs on random input, run by {where}, agree with fastrnn's"
    if suffix == ".c":
        return _write_c(model, destination)
    if suffix in _OUT:
        tensors = state_dict.from_layers(_layers(model))
        with disk.new_file(destination) as temporary:
            again = tensor_files.write(tensors, temporary, suffix)
            if again.keys() != tensors.keys() or any(
                not np.array_equal(again[name], a, equal_nan=True) for name, a in tensors.items()
            ):
                raise ValueError(f"{destination} was read back with other contents, and was removed")
        some = ", ".join(list(tensors)[:4])
        return f"wrote {len(tensors)} tensors to {destination} and read them again: {some}, …{_left_out(model)}"
    if destination.suffix and not destination.is_dir() and len(destination.suffix) <= 6:
        raise ValueError(
            f"{destination}: the suffix determines the format and must be one of {', '.join(_OUT)}; "
            "use no suffix for a directory of fastrnn"
        )
    model.save(destination)
    if not isinstance(model, Network):
        return f"wrote {destination}: fastrnn.models.{type(model).__name__}.load reads it"
    again = Network.load(destination)
    arrays = again.state_dict()
    if repr(again) != repr(model) or any(
        not np.array_equal(arrays[name], a, equal_nan=True) for name, a in model.state_dict().items()
    ):
        raise ValueError(f"{destination} was read back with other contents")
    return (
        f"wrote {destination} and read it again, with identical settings and parameters: fastrnn.Network.load reads it"
    )


def _write_c(model, destination):
    """Write a model as C; returns a line that says so."""
    if destination.suffix != ".c":
        raise ValueError(f"{destination}: use the suffix .c, because compilers take {destination.suffix} for C++")
    name = identifier(destination)
    try:
        exported = Exported.of(model)
    except TypeError:
        raise ValueError(
            f"a {type(model).__name__} cannot be written as C: it is more than a chain of layers"
        ) from None
    with disk.new_file(destination) as temporary:
        export_c(model, temporary, name=name)
        said = c_trial.compare(exported, temporary, name)
    notes = {
        "LanguageModel": "; its outputs are logits in the order of the vocabulary, which the file does not contain",
        "SequenceClassifier": "; its outputs are probabilities in the order of classes_",
    }
    note = notes.get(type(model).__name__, "")
    return f"wrote {destination}, with the functions {name}_reset and {name}_step{note}; {said}"


def _left_out(model):
    """Describe what of a model is not in its state_dict."""
    if not isinstance(model, Network):
        return "; the file contains neither vocabulary nor settings"
    functions = [
        f"{name!r} ({step if isinstance(step, str) else step[0]})"
        for name, step in model.steps.items()
        if name not in model.layers
    ]
    return f"; not in a state_dict, and left out: {', '.join(functions)}" if functions else ""


def _layers(model):
    """Return the layers, {name: layer}, of a model that is a chain."""
    from fastrnn.models import LanguageModel

    if isinstance(model, Network):
        return model.layers
    if isinstance(model, LanguageModel):
        return {name: getattr(model, name) for name in model.LAYERS}
    raise ValueError(
        f"a {type(model).__name__} cannot be written as a state_dict, because it is more than a chain of layers: only "
        "LanguageModel and Network can"
    )
