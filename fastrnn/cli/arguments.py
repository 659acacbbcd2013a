"""The arguments of the ``fastrnn`` command."""

from __future__ import annotations

import argparse

from fastrnn.cli import reading, train_arguments
from fastrnn.cli.parser import Parser, count, natural, not_negative, probability


def parse(argv: list[str]) -> argparse.Namespace:
    """Parse the arguments of the command.

    Parameters
    ----------
    argv : list of str
        The arguments after ``fastrnn``.

    Returns
    -------
    arguments : argparse.Namespace
        `command` is the name of the command, and `rest` holds the arguments after ``bench``.

    Raises
    ------
    SystemExit
        After --help, or after one line about a wrong argument.
    """
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    if arguments.command == "train":
        return train_arguments.parse(rest)
    if arguments.command == "bench":
        arguments.rest = rest
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return arguments


def _parser():
    parser = Parser(
        prog="fastrnn",
        description="Recurrent networks on the CPU: train a model of text or of other sequences, and use it.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    own = dict(add_help=False, allow_abbrev=False)  # these two parse their arguments themselves
    commands.add_parser("train", help="train a model", **own)
    _add_generate(commands)
    _add_evaluate(commands)
    _add_predict(commands)
    _add_convert(commands)
    info = commands.add_parser("info", help="show the configuration of this build, or of a model")
    info.add_argument("model", metavar="DIR", nargs="?", help="directory of a model")
    commands.add_parser("bench", help="compare the speed with torch, onnxruntime, OpenVINO, JAX and NumPy", **own)
    return parser


def _add_evaluate(commands):
    evaluate = commands.add_parser(
        "evaluate",
        help="measure a model on a file",
        description="Measure a model on a file of the kind that it was trained on.",
    )
    _add_model_and_data(evaluate)


def _add_predict(commands):
    predict = commands.add_parser(
        "predict",
        help="predict classes, numbers, tags, answers, texts or next steps",
        description="Predict for a file of the kind that the model was trained on. Labels in the file are not needed. "
        "A language model writes with 'fastrnn generate' instead.",
    )
    _add_model_and_data(predict)
    predict.add_argument(
        "--beam",
        type=count,
        metavar="N",
        help="width of the beam search, for models of translate and caption (default: 1)",
    )


def _add_model_and_data(parser):
    parser.add_argument("model", metavar="DIR", help="directory of the model")
    parser.add_argument(
        "--data",
        metavar="FILE",
        required=True,
        help="the file, in a format that 'fastrnn train' reads for this kind of model",
    )
    reading.add_options(parser, reading.TEXT)
    default = "The defaults are the values used in training."
    words = parser.add_argument_group("reading the file, for a model of 'train tag'", default)
    reading.add_options(words, reading.WORDS[1:], defaults=False)
    table = parser.add_argument_group("reading the file, for a model of 'train forecast'", default)
    reading.add_options(table, reading.TABLE[1:], defaults=False)


def _add_generate(commands):
    generate = commands.add_parser(
        "generate",
        help="write text with a language model",
        description="Write text with a language model.",
    )
    add = generate.add_argument
    add("model", metavar="DIR", help="directory of the model")
    add("--prompt", default="", metavar="TEXT", help="text to continue (default: none)")
    add("--length", type=natural, default=1000, metavar="N", help="number of symbols to write (default: %(default)s)")
    add(
        "--temperature",
        type=not_negative,
        default=0.8,
        help="below 1 makes likely symbols likelier, above 1 less likely; 0: always take the most likely symbol "
        "(default: %(default)s)",
    )
    add("--top-k", type=count, metavar="K", help="sample from the K most likely symbols only")
    add("--top-p", type=probability, metavar="P", help="sample from the fewest symbols whose probabilities add up to P")
    add("--seed", type=natural, help="the same seed writes the same text")


def _add_convert(commands):
    convert = commands.add_parser(
        "convert",
        help="convert a model from PyTorch, ONNX or Keras, or to PyTorch, ONNX or C",
        description="Convert a model from PyTorch, ONNX or Keras, or to PyTorch, ONNX or C.",
    )
    add = convert.add_argument
    add(
        "source",
        metavar="SRC",
        help="a state_dict written by torch.save, or a .safetensors, .onnx, .keras or .h5 file; or a model directory",
    )
    add(
        "destination",
        metavar="DST",
        help="a directory; or a file, whose format is that of its name: .onnx, .pt (a state_dict), .safetensors, or .c "
        "(C source with the weights, which computes step by step)",
    )
    add("--key", metavar="NAME", help="name of the state_dict in a torch file that holds several things")
    add(
        "--order",
        metavar="A,B,…",
        help="layers of a state_dict in the order of use, if it cannot be found from the file and the sizes",
    )
    add(
        "--between",
        metavar="F",
        help="function after a Linear layer that is followed by another layer, for a state_dict: relu, tanh, none, …; "
        "or one for each layer: A=relu,B=none",
    )
    add(
        "--nonlinearity",
        choices=("tanh", "relu"),
        default="tanh",
        help="nonlinearity of the RNN layers of a state_dict, which does not contain it (default: %(default)s)",
    )
    add("--config", metavar="FILE", help="configuration of a .weights.h5 file: the output of model.to_json()")
    add(
        "--vocabulary",
        metavar="FILE",
        help="JSON with the characters in the order of their ids, or {character: id}; the result is then a language "
        "model, for 'fastrnn generate'",
    )
