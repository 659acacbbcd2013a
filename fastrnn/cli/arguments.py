"""The arguments of the ``fastrnn`` command."""

from __future__ import annotations

import argparse
import math

from fastrnn.cli import reading
from fastrnn.cli.console import one_line


class Parser(argparse.ArgumentParser):
    """A parser that says in one line what is wrong, and takes --debug, which the command reads by itself."""

    def __init__(self, **options):
        super().__init__(**options)
        self.add_argument("--debug", action="store_true", help="show where an error comes from")

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {one_line(message)} (see {self.prog} --help)\n")


def _number(kind, description, holds):
    """An argparse type: a number of this kind for which `holds`."""

    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not math.isfinite(value) or not holds(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not {description}")
        return value

    return parse


_count = _number(int, "a whole number of at least 1", lambda v: v >= 1)
_vocabulary = _number(int, "a whole number of at least 2", lambda v: v >= 2)
_natural = _number(int, "a whole number of at least 0", lambda v: v >= 0)
_positive = _number(float, "a number above 0", lambda v: v > 0)
_not_negative = _number(float, "a number of at least 0", lambda v: v >= 0)
_fraction = _number(float, "a number in 0 <= p < 1", lambda v: 0 <= v < 1)
_probability = _number(float, "a number in 0 < p <= 1", lambda v: 0 < v <= 1)


def _threads(text):
    """An argparse type: a number of threads, in ASCII digits; any number beyond what an int of C holds is as good as 10**18."""
    digits = text.strip()
    if not (digits.isascii() and digits.isdecimal() and digits.strip("0")):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(digits.lstrip("0")[:19])


def _path(text):
    """An argparse type: a path, which an empty text is not (it would be the current directory)."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty: give a path, or . for this directory")
    return text


def _decay(text):
    return text if text in ("cosine", "none") else _probability_or_word(text)


def _probability_or_word(text):
    try:
        return _probability(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not 'cosine', 'none' or a factor in 0 < f <= 1") from None


def parse(argv: list[str]) -> argparse.Namespace:
    """The arguments; `command` is the name of the command, and `rest` what is given to `bench`.

    Raises
    ------
    SystemExit  they are wrong, which is said, or are --help.
    """
    if argv[:1] == ["train"] and argv[1:] and argv[1][:1] != "-":  # train qa is train --task qa
        argv = ["train", "--task", *argv[1:]]
    arguments, rest = _parser().parse_known_args(argv)
    if arguments.command == "bench":
        arguments.rest = rest
    elif rest:
        _parser().error(f"unrecognized arguments: {' '.join(rest)}")
    return arguments


def _parser():
    parser = Parser(
        prog="fastrnn",
        description="Recurrent networks on the CPU: train a model of text or of other sequences, and use it.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    _add_train(commands)
    _add_generate(commands)
    evaluate = commands.add_parser("evaluate", help="measure a model on data of the kind it was trained on")
    predict = commands.add_parser("predict", help="predict classes, tags, translations or next steps")
    for command in (evaluate, predict):
        command.add_argument("model", metavar="DIR", help="directory of the model")
        command.add_argument(
            "--data", metavar="FILE", required=True, help="text for a model of it; else as for train --task"
        )
        reading.add_options(command, _count)
    predict.add_argument(
        "--beam",
        type=_count,
        metavar="N",
        help="candidates that are followed side by side (1); for translate and caption",
    )
    _add_convert(commands)
    info = commands.add_parser("info", help="show the configuration of this build, or of a model")
    info.add_argument("model", metavar="DIR", nargs="?", help="directory of a model")
    # the options of bench are its own: fastrnn bench --help
    commands.add_parser(
        "bench", help="compare the speed with torch, onnxruntime, OpenVINO, JAX and NumPy", add_help=False
    )
    return parser


def _add_train(commands):
    train = commands.add_parser(
        "train", help="train a model", description="Train a model: fastrnn train TASK. Defaults are those of text."
    )
    add = train.add_argument
    add(
        "--task",
        choices=("text", "classify", "regress", "tag", "forecast", "music", "qa", "translate", "caption"),
        action="append",
        help="text (default): a language model; classify, regress: .ts, .tsv, .arff; tag: CoNLL-U; forecast: CSV; music: piano rolls as JSON; "
        "qa: bAbI stories; translate: pairs of lines; caption: vectors and texts",
    )
    add(
        "--data",
        metavar="FILE",
        help="the file; for text, without it, the documentation that every Python carries (about 0.5 M characters)",
    )
    add(
        "--held-out",
        metavar="FILE",
        help="look at this file for the best model, in place of --validation; not for text, forecast and music",
    )
    add("--cell", choices=("lstm", "gru", "rnn"), help="kind of recurrent layer (lstm)")
    add("--hidden", type=_count, nargs="+", metavar="H", help="units of all layers, or of each (128)")
    add("--layers", type=_count, metavar="N", help="recurrent layers (2)")
    add("--dropout", type=_fraction, metavar="P", help="probability of a zero behind each recurrent layer (0)")
    add("--batch", type=_count, metavar="B", help="streams of text, or sequences, of an update (50)")
    add("--epochs", type=_count, metavar="N", help="times through the data (20)")
    add(
        "--optimizer",
        choices=("adam", "adamw", "rmsprop", "adagrad", "sgd"),
        default="adam",
        help="rule of the updates (adam)",
    )
    add("--lr", type=_positive, help="learning rate (0.002)")
    add(
        "--lr-decay",
        type=_decay,
        default="cosine",
        metavar="HOW",
        help="cosine (default): down to 0 at the end; a factor per epoch; or none",
    )
    add("--weight-decay", type=_not_negative, metavar="W", help="of the optimiser")
    add("--clip", type=_not_negative, default=5.0, metavar="NORM", help="maximum norm of the gradient (5); 0: no limit")
    add(
        "--nonfinite",
        choices=("stop", "skip"),
        default="stop",
        help="an update whose loss or gradient is NaN or infinite stops the training (stop), or is skipped and counted",
    )
    add(
        "--check-finite",
        action="store_true",
        help="look for NaN and infinity in all recurrent layers, and name the place of the first",
    )
    add("--accumulate", type=_count, default=1, metavar="N", help="batches of an update (1)")
    add(
        "--validation",
        type=_fraction,
        metavar="P",
        help="fraction of the data to hold out (0.1), of a text its end; not for forecast and music",
    )
    add("--patience", type=_count, metavar="N", help="stop after N epochs without a better held-out loss")
    add("--seed", type=_natural, default=0, help="the same seed gives the same model, bit for bit (0)")
    add("--threads", type=_threads, metavar="N", help="threads, at most 64; all cores if not given")
    add(
        "--out",
        type=_path,
        metavar="DIR",
        help="directory of the model and of the checkpoint (./fastrnn-lm; ./fastrnn-classify, … for other tasks)",
    )
    add(
        "--log",
        metavar="FILE",
        help="write the figures of each epoch to FILE, as CSV or, if it ends in .jsonl, as JSON",
    )
    add("--resume", action="store_true", help="continue from the checkpoint in DIR, with the same options as before")
    add("--quiet", action="store_true", help="show no progress")
    text = train.add_argument_group("text").add_argument
    text(
        "--level", choices=("character", "word", "byte"), help="what the model reads and writes one by one (character)"
    )
    text(
        "--min-count",
        type=_count,
        metavar="N",
        help="rarer words are unknown words; with --level word (2), for translate (2), tag (1) and, of characters, caption (1)",
    )
    text(
        "--max-vocabulary",
        type=_vocabulary,
        metavar="V",
        help="keep the V most frequent words only, <unk> among them; with --level word",
    )
    text(
        "--pretrained",
        metavar="FILE",
        help="word vectors to start from, in GloVe's or word2vec's text format; with --level word",
    )
    text(
        "--splitting",
        choices=("unicode", "simple"),
        help="words end at Unicode's word boundaries, or are runs of letters and digits; with --level word (unicode)",
    )
    text("--tied", action="store_true", default=None, help="one weight for embedding and softmax")
    text("--embedding", type=_count, metavar="E", help="numbers for each symbol at the input; H if not given")
    text("--seq-len", type=_count, metavar="T", help="steps of an update (50)")
    series = train.add_argument_group("classify, forecast, translate").add_argument
    series(
        "--bidirectional", action="store_true", default=None, help="read in both directions; for classify and translate"
    )
    series(
        "--attention",
        choices=("none", "additive", "dot", "general"),
        help="how the outputs of the source are scored; for translate (additive)",
    )
    series("--pooling", choices=("last", "mean", "max"), help="what stands for a whole series; for classify (last)")
    series("--window", type=_count, metavar="N", help="steps that are read; for forecast, which needs it")
    series("--horizon", type=_count, metavar="N", help="steps that are forecast; for forecast, which needs it")
    series("--season", type=_count, metavar="N", help="steps of a season, whose differences are learnt; for forecast")
    series("--logarithm", action="store_true", default=None, help="the logarithms are learnt; for forecast")
    qa = train.add_argument_group("qa").add_argument
    qa("--hops", type=_count, metavar="N", help="how often the story is looked at (3)")
    qa("--memory", type=_count, metavar="N", help="sentences that are kept of a story, its last ones (50)")
    qa("--tying", choices=("adjacent", "layerwise"), help="which tables are one (adjacent)")
    qa("--linear-start", type=_natural, metavar="N", help="epochs at first without the softmax over the memory (0)")
    reading.add_options(train, _count)


def _add_generate(commands):
    generate = commands.add_parser(
        "generate", help="write text with a model", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = generate.add_argument
    add("model", metavar="DIR", help="directory of the model")
    add("--prompt", default="", metavar="TEXT", help="the text begins with it")
    add("--length", type=_natural, default=1000, metavar="N", help="characters, words or bytes to write")
    add(
        "--temperature",
        type=_not_negative,
        default=0.8,
        help="lower is safer, higher is bolder; 0: always the most likely",
    )
    add("--top-k", type=_count, metavar="K", help="draw from the K most likely symbols only")
    add("--top-p", type=_probability, metavar="P", help="draw from the fewest symbols that have probability P together")
    add("--seed", type=_natural, help="the same seed writes the same text")


def _add_convert(commands):
    convert = commands.add_parser(
        "convert", help="read a model of torch, ONNX or Keras; or write one for torch or ONNX"
    )
    add = convert.add_argument
    add(
        "source",
        metavar="SRC",
        help="a state_dict that torch.save wrote, .safetensors, .onnx, .keras, .h5; or the directory of a model",
    )
    add("destination", metavar="DST", help="a directory; or a file: .onnx, .pt (a state_dict), .safetensors")
    add("--key", metavar="NAME", help="which part of a torch file is the state_dict")
    add(
        "--order",
        metavar="A,B,…",
        help="the layers of a state_dict in the order of use, where the file and their sizes do not tell it",
    )
    add(
        "--between",
        metavar="F",
        help="function behind a Linear that another layer of a state_dict follows: relu, tanh, none, …; or A=relu,B=none",
    )
    add(
        "--nonlinearity",
        choices=("tanh", "relu"),
        default="tanh",
        help="of vanilla layers in a state_dict, which does not say (tanh)",
    )
    add("--config", metavar="FILE", help="settings of a .weights.h5: what model.to_json() gave")
    add(
        "--vocabulary",
        metavar="FILE",
        help="JSON, the characters in the order of their ids or {character: id}: makes a language model that generates",
    )
