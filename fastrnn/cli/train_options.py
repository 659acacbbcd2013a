"""Options that several tasks of ``fastrnn train`` have. For the meaning of the destinations see `train_arguments`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from fastrnn.cli import reading
from fastrnn.cli.parser import count, decay, fraction, natural, norm_limit, not_negative, path, positive, threads

DEFAULT = " (default: %(default)s)"


class OneSize(argparse.Action):
    """Store --hidden of a model whose layers all have the same size. A list is accepted only for a clear error."""

    def __call__(self, parser, namespace, values, option_string=None):
        if len(values) > 1:
            raise argparse.ArgumentError(self, f"one size is needed, but {len(values)} are given")
        setattr(namespace, self.dest, values[0])


class Sizes(argparse.Action):
    """Store --hidden as one size for all layers, or as a list of sizes."""

    def __call__(self, parser, namespace, values, option_string=None):
        setattr(namespace, self.dest, values[0] if len(values) == 1 else values)


def add_data(
    parser: argparse.ArgumentParser,
    what: str,
    *,
    needed: bool = True,
    held_out: bool = False,
    options: Sequence[str] = reading.TEXT,
) -> Callable:
    """Add --data, options for reading it and, if `held_out`, for held-out data; return the group's `add_argument`."""
    group = parser.add_argument_group("data")
    group.add_argument("--data", metavar="FILE", required=needed, help=what)
    if held_out:
        choice = group.add_mutually_exclusive_group()
        choice.add_argument(
            "--held-out", metavar="FILE", help="held-out data; the model with the lowest loss on them is kept"
        )
        choice.add_argument(
            "--validation",
            type=fraction,
            default=0.1,
            metavar="P",
            help="fraction of the data to hold out, if there is no file of held-out data" + DEFAULT,
        )
    reading.add_options(group, options)
    return group.add_argument


def add_network(
    task: argparse.ArgumentParser,
    *,
    cell: str,
    hidden: int = 128,
    layers: int | None = 1,
    layers_default: str = "%(default)s",
    dropout: float = 0.0,
    one_size: bool = False,
) -> Callable:
    """Add the options of recurrent layers; return the group's `add_argument`."""
    add = task.add_argument_group("model").add_argument
    add(
        "--cell",
        choices=("lstm", "gru", "rnn"),
        default=cell,
        dest="model.cell",
        help="kind of recurrent layer" + DEFAULT,
    )
    sizes = "size of the hidden state of every layer" + ("" if one_size else ", or one size for each layer")
    add(
        "--hidden",
        type=count,
        nargs="+",
        action=OneSize if one_size else Sizes,
        default=hidden,
        dest="model.hidden_size",
        metavar="H",
        help=sizes + DEFAULT,
    )
    add(
        "--layers",
        type=count,
        default=layers,
        dest="model.num_layers",
        metavar="N",
        help=f"number of recurrent layers (default: {layers_default})",
    )
    add(
        "--dropout",
        type=fraction,
        default=dropout,
        dest="model.dropout",
        metavar="P",
        help="dropout probability after each recurrent layer, in training only" + DEFAULT,
    )
    return add


def add_bidirectional(add: Callable, what: str) -> None:
    """Add --bidirectional."""
    add("--bidirectional", action="store_true", dest="model.bidirectional", help=what)


def add_pooling(add: Callable) -> None:
    """Add --bidirectional and --pooling, which say how a series becomes one vector."""
    add_bidirectional(add, "read the series in both directions")
    add(
        "--pooling",
        choices=("last", "mean", "max"),
        default="last",
        dest="model.pooling",
        help="which output represents a series: that of its last step, or the mean or maximum over its steps" + DEFAULT,
    )


def add_min_count(add: Callable, default: int, what: str) -> None:
    """Add --min-count."""
    add(
        "--min-count",
        type=count,
        default=default,
        dest="model.min_count",
        metavar="N",
        help=f"read rarer {what} as unknown" + DEFAULT,
    )


def add_training(
    parser: argparse.ArgumentParser,
    *,
    epochs: int,
    batch: int,
    lr: float,
    batch_help: str = "sequences per batch",
    patience: bool = True,
) -> Callable:
    """Add the options of the training; return the group's `add_argument`."""
    add = parser.add_argument_group("training").add_argument
    add(
        "--epochs",
        type=count,
        default=epochs,
        dest="fit.epochs",
        metavar="N",
        help="number of passes over the data" + DEFAULT,
    )
    add("--batch", type=count, default=batch, dest="fit.batch_size", metavar="B", help=batch_help + DEFAULT)
    add("--accumulate", type=count, default=1, dest="fit.accumulate", metavar="N", help="batches per update" + DEFAULT)
    _add_updates(add, lr)
    if patience:
        add(
            "--patience",
            type=count,
            dest="fit.patience",
            metavar="N",
            help="stop after N evaluations in a row without a lower held-out loss (default: never)",
        )
    add(
        "--seed",
        type=natural,
        default=0,
        dest="model.seed",
        metavar="N",
        help="random seed; the same seed gives the same model, bit for bit" + DEFAULT,
    )
    add("--threads", type=threads, metavar="N", help="number of threads, at most 64 (default: one for each core)")
    return add


def _add_updates(add, lr):
    add(
        "--optimizer",
        choices=("adam", "adamw", "rmsprop", "adagrad", "sgd"),
        default="adam",
        dest="fit.optimizer",
        help="update rule" + DEFAULT,
    )
    add("--lr", type=positive, default=lr, dest="fit.lr", metavar="RATE", help="learning rate" + DEFAULT)
    add(
        "--lr-decay",
        type=decay,
        default="cosine",
        metavar="HOW",
        help="decay of the learning rate: cosine, down to 0 at the end; a factor per epoch, such as 0.9; or none"
        + DEFAULT,
    )
    add(
        "--weight-decay",
        type=not_negative,
        dest="fit.weight_decay",
        metavar="W",
        help="weight decay (default: that of the optimizer)",
    )
    add(
        "--clip",
        type=norm_limit,
        default=5.0,
        dest="fit.clip_norm",
        metavar="NORM",
        help="maximum norm of the gradient; 0: no limit" + DEFAULT,
    )
    add(
        "--nonfinite",
        choices=("stop", "skip"),
        default="stop",
        dest="fit.nonfinite",
        help="what to do if the loss or the gradient of an update is NaN or infinite: stop the training, or skip the "
        "update and count it" + DEFAULT,
    )
    add(
        "--check-finite",
        action="store_true",
        dest="fit.check_finite",
        help="check the values in all recurrent layers for NaN and infinity, and report where the first one is",
    )


def add_output(parser: argparse.ArgumentParser, out: str | None = None) -> None:
    """Add the options that say what is written, and where."""
    add = parser.add_argument_group("output").add_argument
    out = out or f"./fastrnn-{parser.prog.split()[-1]}"
    add("--out", type=path, default=out, metavar="DIR", help="directory of the model and the checkpoint" + DEFAULT)
    add(
        "--log",
        metavar="FILE",
        help="write the losses of each evaluation to FILE, as JSON lines if its name ends in .jsonl, else as CSV",
    )
    add(
        "--resume",
        action="store_true",
        dest="fit.resume",
        help="continue from the checkpoint in DIR, with the same options as before",
    )
    add("--quiet", action="store_false", dest="fit.verbose", help="show no progress")
