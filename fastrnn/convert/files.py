"""Files of torch, ONNX and Keras as fastrnn directories, and fastrnn models as files of torch and ONNX; compared before they are written."""

from __future__ import annotations

import contextlib
import importlib.util
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastrnn._files import disk, foreign, storage
from fastrnn.convert import state_dict, tensor_files
from fastrnn.convert.tensor_files import read_ordered, read_torch
from fastrnn.layers.network import Network
from fastrnn.layers.rnn import GRU, LSTM, RNN

MOST_TEXT = 16 << 20  # characters of a config or a vocabulary
_OUT = (".onnx", ".pt", ".pth", ".safetensors")
_NAMES = {RNN: "rnn", GRU: "gru", LSTM: "lstm"}


def convert(
    source, destination, *, key=None, order=None, between=None, nonlinearity="tanh", config=None, vocabulary=None
):
    """Read a model, compare what was read with its source, write it, read it again. Gives lines that say what was done.

    Parameters
    ----------
    source : a file of torch (a state_dict), .safetensors, .onnx, .keras or .h5; its content says which; or a fastrnn directory
    destination : a directory; or a file, of what its suffix says: .onnx, .pt, .pth (torch's state_dict), .safetensors. It must not exist.
    key : of the state_dict in a file that holds a dict of more
    order : "a,b,c" or a list: the layers of a state_dict in the order of use, where neither the file nor their sizes
        tell it; see `state_dict.to_network`
    between : "relu", or "a=relu,b=none" or a dict: the function behind a Linear that another layer of a state_dict
        follows; see there
    nonlinearity : "tanh" or "relu": of vanilla layers in a state_dict, which does not say
    config : for a .weights.h5, the file with the model's to_json()
    vocabulary : a JSON file with the list of the characters in the order of their ids, or {character: id}: makes a LanguageModel

    Raises
    ------
    ValueError  the file is damaged, or the model is one that fastrnn or the other side has not; the message says what, and nothing is written.
    """
    source, destination = Path(source), Path(destination)
    _check_free(destination)
    model, said = _read(source, _Options(key, order, between, nonlinearity, config))
    if vocabulary is not None:
        model = language_model(model, read_vocabulary(vocabulary))
        said.append(f"made a language model of {len(model.vocabulary)} characters")
    _check_free(destination)  # another process may have saved there meanwhile
    new = not destination.exists()
    try:
        said.append(_write(model, destination))
    except BaseException:
        if new:
            with contextlib.suppress(OSError):  # not there, or not empty: what is in it may be another process's
                destination.rmdir()
        raise
    return said


def _check_free(destination):
    """Refuse to write where there is something already."""
    if storage.holds_anything(destination) if destination.is_dir() else destination.exists():
        raise ValueError(f"{destination} exists: choose another name, or remove it first")


@dataclass(frozen=True)
class _Options:
    """What is said of the source."""

    key: str | None
    order: str | list | None
    between: str | dict | None
    nonlinearity: str
    config: str | None

    def refuse(self, kind, *names):
        """Raise if one of these is given, as it would not count."""
        for name in names:
            if getattr(self, name) not in (None, "tanh"):
                raise ValueError(f"--{name} {getattr(self, name)} does not count for {kind}: leave it out")


def _read(source, options):
    """(model, what to say)."""
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

        net = fastrnn.keras.load(source, None if options.config is None else _text(options.config))
        rest = sorted(
            {
                type(layer).__name__.replace("Linear", "Dense")
                for layer in net.layers.values()
                if not isinstance(layer, (GRU, LSTM, RNN))
            }
        )
        compared = "each recurrent layer alone agrees with a float64 reference of Keras' definitions; "
        compared += f"{', '.join([*rest, 'the outputs of the whole'])} were not compared with anything"
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
        said.append(f"nonlinearity {options.nonlinearity!r} is taken for granted, as a state_dict does not say")
    else:
        options.refuse("a state_dict without vanilla layers", "nonlinearity")
    first = f"read {net!r} from {len(tensors)} tensors, {net.num_parameters} parameters"
    first += "; x is (T, B, features), or ids (T, B), whatever batch_first was"
    return net, [first, *said, compare_with_torch(net, tensors)]


def _text(path):
    """The text of a file that is no model; JSON of this size is none that these readers take."""
    foreign.check_regular(path)
    with foreign.reading(path), open(path, encoding="utf-8") as file:
        return file.read(MOST_TEXT)


def _parsed_between(text):
    """A function's name, or {layer: function} of "a=relu,b=none"; None without one."""
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
    """ "torch", "safetensors", "keras" or "onnx", by the file's content; a ValueError if it is none of them."""
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
            f"{path} is a bare pickle, which fastrnn does not open: in torch, torch.save(module.state_dict(), …) writes a zip file"
        )
    if path.suffix == ".onnx":
        return "onnx"
    raise ValueError(f"{path} is not a torch, safetensors, ONNX or Keras file: its first bytes are {head!r}")


def compare_with_torch(net, tensors):
    """Raise if a layer's outputs on random input are not torch's; gives the line that says what was compared."""
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
        f"each layer alone agrees with torch's on random input, to {worst:.1e}; the chain of them was NOT compared, as no "
        "file holds your module's forward"
    )


def _width(layer):
    return layer.in_features if hasattr(layer, "in_features") else layer.input_size


def _torch_module(layer, own):
    """The same layer in torch; a cell's parameters get a layer's names."""
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


def read_vocabulary(path):
    """The characters in the order of their ids."""
    found = foreign.parse_json(path, _text(path), MOST_TEXT)
    if isinstance(found, dict):
        if sorted(found.values(), key=str) != sorted(range(len(found)), key=str):
            raise ValueError(f"{path}: the ids of {len(found)} characters must be 0..{len(found) - 1}, each once")
        found = sorted(found, key=found.get)
    symbols = list(found) if isinstance(found, (list, str)) else []
    if (
        not symbols
        or not all(isinstance(one, str) and len(one) == 1 for one in symbols)
        or len(set(symbols)) < len(symbols)
    ):
        raise ValueError(
            f"{path} must be a list of different characters, in the order of their ids, or an object {{character: id}}"
        )
    return "".join(symbols)


def language_model(net, symbols):
    """A LanguageModel of characters from a chain of Embedding, recurrent layers and Linear.

    Raises
    ------
    ValueError  the chain is another one, or has a size that does not fit; the message says which.
    """
    from fastrnn.models import LanguageModel
    from fastrnn.models.text import Vocabulary

    steps = list(net.steps.values()) if isinstance(net, Network) else []
    names = [type(step).__name__ for step in steps]
    body = [layer for step in steps[1:-1] for layer in getattr(step, "layers", [step])]
    alike = len({type(layer) for layer in body}) == 1 and type(body[0]) in _NAMES
    if names[:1] != ["Embedding"] or names[-1:] != ["Linear"] or not alike:
        raise ValueError(f"a language model is Embedding, RNN, GRU or LSTM layers of one kind, Linear; this is {net!r}")
    V, sizes = len(symbols), [layer.hidden_size for layer in body for _ in range(layer.num_layers)]
    if steps[0].num_embeddings != V or steps[-1].out_features != V:
        raise ValueError(
            f"the vocabulary has {V} characters, but the embedding {steps[0].num_embeddings} and the output {steps[-1].out_features}"
        )
    one = len(set(sizes)) == 1 and len(body) == 1
    model = LanguageModel(
        _NAMES[type(body[0])], sizes[0] if one else [layer.hidden_size for layer in body], len(sizes) if one else 1,
        embedding_size=steps[0].embedding_dim, dtype=str(net.dtype), seed=0,
    )  # fmt: skip
    model._build(Vocabulary(symbols), 0)
    made = [model.embedding, *getattr(model.rnn, "layers", [model.rnn]), model.linear]
    for target, layer in zip(made, [steps[0], *body, steps[-1]], strict=True):
        if repr(target) != repr(layer):
            raise ValueError(f"a language model's layer is {target!r}, but this is {layer!r}")
        target.load_state_dict(layer.params)
    return model


def _write(model, destination):
    """Write, read again, compare. Gives the line that says so; a file that does not agree is removed."""
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
    if suffix in _OUT:
        tensors = state_dict.from_layers(_layers(model))
        with disk.new_file(destination) as temporary:
            again = tensor_files.write(tensors, temporary, suffix)
            if again.keys() != tensors.keys() or any(
                not np.array_equal(again[name], a, equal_nan=True) for name, a in tensors.items()
            ):
                raise ValueError(f"{destination} did not come back as it was written, and was removed")
        some = ", ".join(list(tensors)[:4])
        return f"wrote {len(tensors)} tensors to {destination} and read them again: {some}, …{_left_out(model)}"
    if destination.suffix and not destination.is_dir() and len(destination.suffix) <= 6:
        raise ValueError(
            f"{destination}: a suffix says the format, one of {', '.join(_OUT)}; a directory of fastrnn has none"
        )
    model.save(destination)
    if not isinstance(model, Network):
        return f"wrote {destination}: fastrnn.models.{type(model).__name__}.load reads it"
    again = Network.load(destination)
    arrays = again.state_dict()
    if repr(again) != repr(model) or any(
        not np.array_equal(arrays[name], a, equal_nan=True) for name, a in model.state_dict().items()
    ):
        raise ValueError(f"{destination} did not come back as it was written")
    return (
        f"wrote {destination} and read it again, settings and numbers equal to the bit: fastrnn.Network.load reads it"
    )


def _left_out(model):
    """What of a model is not in its state_dict, in words."""
    if not isinstance(model, Network):
        return "; its vocabulary and settings are not in them"
    functions = [
        f"{name!r} ({step if isinstance(step, str) else step[0]})"
        for name, step in model.steps.items()
        if name not in model.layers
    ]
    return f"; not in a state_dict, and left out: {', '.join(functions)}" if functions else ""


def _layers(model):
    """{name: layer} of what a state_dict can hold."""
    from fastrnn.models import LanguageModel

    if isinstance(model, Network):
        return model.layers
    if isinstance(model, LanguageModel):
        return {name: getattr(model, name) for name in model.LAYERS}
    raise ValueError(
        f"a {type(model).__name__} is more than a chain of layers, so no state_dict alone holds it; LanguageModel and Network are chains"
    )
