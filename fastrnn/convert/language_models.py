"""Character-level language models from a chain of layers and a vocabulary."""

from __future__ import annotations

from fastrnn._files import foreign
from fastrnn.layers.network import Network
from fastrnn.layers.rnn import GRU, LSTM, RNN

MOST_TEXT = 16 << 20  # characters of a config or a vocabulary
_NAMES = {RNN: "rnn", GRU: "gru", LSTM: "lstm"}


def read_text(path):
    """Read a text file, at most MOST_TEXT characters of it."""
    foreign.check_regular(path)
    with foreign.reading(path), open(path, encoding="utf-8") as file:
        return file.read(MOST_TEXT)


def read_vocabulary(path):
    """Read a vocabulary; returns a str of its characters in the order of their ids."""
    found = foreign.parse_json(path, read_text(path), MOST_TEXT)
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
    """Construct a LanguageModel from a chain of Embedding, recurrent layers and Linear.

    Parameters
    ----------
    net : Network
        The chain.
    symbols : str
        Characters in the order of their ids.

    Returns
    -------
    LanguageModel
        Model with copies of the parameters.

    Raises
    ------
    ValueError
        The chain or one of its sizes is not that of a language model.
    """
    from fastrnn.models import LanguageModel
    from fastrnn.models.text import Vocabulary

    steps = list(net.steps.values()) if isinstance(net, Network) else []
    names = [type(step).__name__ for step in steps]
    body = [layer for step in steps[1:-1] for layer in getattr(step, "layers", [step])]
    alike = len({type(layer) for layer in body}) == 1 and type(body[0]) in _NAMES
    if names[:1] != ["Embedding"] or names[-1:] != ["Linear"] or not alike:
        raise ValueError(
            "a language model consists of Embedding, RNN, GRU or LSTM layers of one kind, and Linear, "
            f"but this is {net!r}"
        )
    V, sizes = len(symbols), [layer.hidden_size for layer in body for _ in range(layer.num_layers)]
    if steps[0].num_embeddings != V or steps[-1].out_features != V:
        raise ValueError(
            f"the vocabulary has {V} characters, but the embedding has {steps[0].num_embeddings} rows and the output "
            f"layer {steps[-1].out_features} outputs"
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
            raise ValueError(f"a language model needs the layer {target!r}, but this one is {layer!r}")
        target.load_state_dict(layer.params)
    return model
