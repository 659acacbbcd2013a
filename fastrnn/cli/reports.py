"""What the command prints about a training, and about a model."""

from __future__ import annotations

import math
import os

from fastrnn.cli.console import one_line, say
from fastrnn.layers.network import Network
from fastrnn.models import LanguageModel
from fastrnn.models.model import Model

_TEXT_SETTINGS = (
    *("level", "cell", "hidden_size", "num_layers", "dropout", "embedding_size", "tied"),
    *("dtype", "seed", "num_parameters"),
)


def report(model: Model, out: str | os.PathLike) -> None:
    """Print a summary of a training: held-out figures, speed, where the model is, and how to use it.

    Parameters
    ----------
    model : Model
        The model after `fit`.
    out : path
        The directory that holds the model.
    """
    diverged = model.outcome == "diverged"
    if diverged:
        print("training diverged; this is the model that is kept:")
    elif model.message is not None:
        say(f"fastrnn: warning: {one_line(model.message)}")
    is_text = isinstance(model, LanguageModel)
    (_text_figures if is_text else _figures)(model, "at best" if diverged else "after")
    if model.speed is not None and not diverged:
        print(f"speed: {model.speed:,.0f} {model.level if is_text else 'step'}s/s")
    if is_text and not diverged:
        print("it writes:", "".join(model.generate_iter(length=300, temperature=0.7, seed=0)), sep="\n")
    line = f"model: {out} ({model.num_parameters:,} parameters)"
    if not diverged:
        line += (
            f"; to write more: fastrnn generate {out}"
            if is_text
            else f"; to predict: fastrnn predict {out} --data FILE"
        )
    print(line)


def _evaluations(model):
    """The first evaluation on held-out data and the best one, or None if there was none."""
    entries = [entry for entry in model.history if entry.get("validation_loss") is not None]
    if not entries:
        return None
    numbers = [entry for entry in entries if not math.isnan(entry["validation_loss"])]
    return entries[0], min(numbers, key=lambda entry: entry["validation_loss"], default=entries[-1])


def _figures(model, when):
    evaluations = _evaluations(model)
    if evaluations is not None:
        first, best = evaluations
        for name in model.FIGURES:
            before, after = first[f"validation_{name}"], best[f"validation_{name}"]
            kept = f"{after:.4f} {when} epoch {best['epoch']:g}, whose parameters are kept"
            print(f"held-out {name}: {before:.4f} before, {kept}")


def _text_figures(model, when):
    if model.pretrained_words is not None:
        print(f"pretrained vectors: for {model.pretrained_words:,} of {len(model.vocabulary):,} words")
    evaluations = _evaluations(model)
    if evaluations is not None:
        before, after = (entry["validation_loss"] for entry in evaluations)
        print(f"held-out NLL: {before:.4f} before, {after:.4f} {when}, in nats per {model.level}")


def describe(model: Model | Network) -> None:
    """Print the settings of a model, and what its training reached."""
    if isinstance(model, Network):
        print("model: Network")
        for name, step in model.steps.items():
            print(f"{name}: {step!r}")
        print(f"num_parameters: {model.num_parameters}")
    elif isinstance(model, LanguageModel):
        _describe_text(model)
    else:
        print(f"model: {type(model).__name__}")
        for name in (*model.ARGUMENTS, "dtype", "seed", "num_parameters"):
            print(f"{name}: {getattr(model, name)}")


def _describe_text(model):
    for name in _TEXT_SETTINGS:
        print(f"{name}: {getattr(model, name)}")
    if model.level == "word":
        print(f"splitting: {model.splitting}")
    print(f"symbols: {_symbols(model)}")
    evaluations = _evaluations(model)
    if evaluations is not None:
        best = evaluations[1]
        print(f"held-out NLL: {best['validation_loss']:.4f} nats per {model.level} after epoch {best['epoch']:g}")


def _symbols(model):
    """The number of symbols of a language model, and the first of them."""
    symbols = model.vocabulary.symbols
    if model.level == "byte":
        return f"{len(symbols)} bytes"
    if model.level == "word":
        return f"{len(symbols)} words: {', '.join(map(repr, symbols[:20]))}{', …' if len(symbols) > 20 else ''}"
    return f"{len(symbols)}: {symbols!r}"
