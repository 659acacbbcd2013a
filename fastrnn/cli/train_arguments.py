"""The arguments of ``fastrnn train``: a parser for each task, with the options, defaults and help of that task.

The part of a destination before the dot says where the value goes: "model" to the model's constructor, "fit" to `fit`,
"reading" to the reader of the file; `fastrnn.cli.parser.values` collects them. Others are the command's own.
"""

from __future__ import annotations

import argparse

from fastrnn.cli import reading
from fastrnn.cli.parser import Parser, count, fraction, natural, vocabulary_size
from fastrnn.cli.train_options import (
    DEFAULT,
    OneSize,
    add_bidirectional,
    add_data,
    add_min_count,
    add_network,
    add_output,
    add_pooling,
    add_training,
)


def parse(words: list[str]) -> argparse.Namespace:
    """Parse what follows ``fastrnn train``.

    The task is the first word, or the value of --task; without either it is text.

    Parameters
    ----------
    words : list of str
        The arguments after ``train``.

    Returns
    -------
    arguments : argparse.Namespace
        `task` is the name of the task.

    Raises
    ------
    SystemExit
        After --help, or after one line about a wrong argument.
    """
    parser, tasks = _parsers()
    alias = Parser(prog=parser.prog, add_help=False, allow_abbrev=False)
    alias.add_argument("--task", action="append", default=[])
    named, words = alias.parse_known_args(words)
    names = named.task
    if words and not words[0].startswith("-"):
        names = [words[0], *names]
        words = words[1:]
    for name in names:
        if name not in tasks:
            parser.error(f"argument TASK: invalid choice: {name!r} (choose from {', '.join(tasks)})")
        if name != names[0]:
            parser.error(f"two tasks are given, {names[0]} and {name}: give one of them")
    if not names and {"-h", "--help"} & {*words}:
        parser.print_help()
        parser.exit()
    task = names[0] if names else "text"
    arguments, unknown = tasks[task].parse_known_args(words)
    if unknown:
        _refuse(unknown, task, tasks)
    arguments.command, arguments.task = "train", task
    return arguments


def _refuse(unknown, task, tasks):
    """Report arguments that the task's parser does not know; name the tasks that an option belongs to."""
    for option in (word.partition("=")[0] for word in unknown):
        owners = [name for name, parser in tasks.items() if option in parser.option_names]
        if owners and task not in owners:
            tasks[task].error(f"{option} is not an option of {task}, but of {_joined(owners)}")
    tasks[task].error(f"unrecognized arguments: {' '.join(unknown)}")


def _joined(names):
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _parsers():
    """Make the parser of ``fastrnn train``, which lists the tasks and common options, and ``{task: parser}``."""
    parser = Parser(
        prog="fastrnn train",
        usage="%(prog)s [TASK] [options]",
        description="Train a model. Without TASK, train a language model of text. The options below are those that "
        "the tasks have in common, with the defaults of text; 'fastrnn train TASK --help' shows all options of a task.",
    )
    tasks = parser.add_subparsers(prog="fastrnn train", title="tasks", metavar="TASK")
    for add in (_text, _classify, _regress, _tag, _forecast, _music, _qa, _translate, _caption):
        add(tasks)
    parser.add_argument("--task", metavar="TASK", help="another way to name the task")
    add_data(parser, "the data; see the help of the task for their format")
    add_training(parser, epochs=20, batch=50, lr=2e-3)
    add_output(parser, "./fastrnn-TASK, for text ./fastrnn-lm")
    return parser, tasks.choices


def _task(tasks, name, what, needs="--data FILE"):
    options = " [options]" if name == "text" else f" {needs} [options]"
    return tasks.add_parser(name, help=what, description=f"Train {what}.", usage=f"%(prog)s{options}")


# --- the tasks ---


def _text(tasks):
    task = _task(tasks, "text", "a language model of characters, words or bytes")
    add = add_data(
        task, "a text file (default: the documentation that comes with Python, about 0.5 M characters)", needed=False
    )
    add(
        "--validation",
        type=fraction,
        default=0.1,
        metavar="P",
        help="fraction of the text, at its end, to hold out; the model with the lowest loss on it is kept" + DEFAULT,
    )
    add = add_network(task, cell="lstm", layers=None, layers_default="2, or 1 if --hidden has several sizes")
    add(
        "--embedding",
        type=count,
        dest="model.embedding_size",
        metavar="E",
        help="size of the embedding (default: the size given by --hidden)",
    )
    add(
        "--tied", action="store_true", dest="model.tied", help="use one weight matrix for the embedding and the softmax"
    )
    add(
        "--level",
        choices=("character", "word", "byte"),
        default="character",
        dest="model.level",
        help="kind of symbol that is read and written" + DEFAULT,
    )
    add = task.add_argument_group("model of words (--level word)").add_argument
    add("--min-count", type=count, dest="model.min_count", metavar="N", help="read rarer words as <unk> (default: 2)")
    add(
        "--max-vocabulary",
        type=vocabulary_size,
        dest="model.max_vocabulary",
        metavar="V",
        help="keep only the V most frequent words, including <unk>",
    )
    add(
        "--pretrained",
        dest="fit.pretrained",
        metavar="FILE",
        help="initial word vectors, in the text format of GloVe or word2vec",
    )
    add(
        "--splitting",
        choices=("unicode", "simple"),
        dest="model.splitting",
        help="how text is split into words: at Unicode word boundaries, or into runs of letters and digits "
        "(default: unicode)",
    )
    add = add_training(task, epochs=20, batch=50, lr=2e-3, batch_help="parts of the text that are read in parallel")
    add("--seq-len", type=count, default=50, dest="fit.seq_len", metavar="T", help="time steps per update" + DEFAULT)
    add_output(task, "./fastrnn-lm")


def _classify(tasks):
    task = _task(tasks, "classify", "a classifier of series")
    add_data(task, "series and their classes: a .ts file of the UCR/UEA archive, .tsv or .arff", held_out=True)
    add_pooling(add_network(task, cell="lstm"))
    add_training(task, epochs=50, batch=16, lr=5e-3)
    add_output(task)


def _regress(tasks):
    task = _task(tasks, "regress", "a regressor: a number for each series")
    add_data(task, "series and a number each: a .ts file with @targetLabel true, .tsv or .arff", held_out=True)
    add_pooling(add_network(task, cell="lstm"))
    add_training(task, epochs=50, batch=16, lr=5e-3)
    add_output(task)


def _tag(tasks):
    task = _task(tasks, "tag", "a tagger of words in sentences")
    add_data(
        task,
        "words and their tags: CoNLL-U, or CoNLL-2003 with --layout conll2003",
        held_out=True,
        options=reading.WORDS,
    )
    add_min_count(add_network(task, cell="lstm", dropout=0.3), 1, "words")
    add_training(task, epochs=15, batch=32, lr=3e-3)
    add_output(task)


def _forecast(tasks):
    task = _task(tasks, "forecast", "a forecaster of one or several series", "--data FILE --window N --horizon N")
    add_data(task, "a table of numbers over time: CSV with a header", options=reading.TABLE)
    add = add_network(task, cell="gru", hidden=32)
    add(
        "--window",
        type=count,
        required=True,
        dest="model.window",
        metavar="N",
        help="number of steps that the model reads",
    )
    add("--horizon", type=count, required=True, dest="model.horizon", metavar="N", help="number of steps to forecast")
    add(
        "--season",
        type=count,
        dest="model.season",
        metavar="N",
        help="length of a season in steps; the model then learns the differences from the season before",
    )
    add("--logarithm", action="store_true", dest="model.log", help="learn the logarithms of the series")
    add_training(task, epochs=60, batch=16, lr=5e-3, patience=False)
    add_output(task)


def _music(tasks):
    task = _task(tasks, "music", "a model of notes over time")
    add_data(task, 'piano rolls: JSON {"train": …, "valid": …, "test": …}')
    add_network(task, cell="gru", dropout=0.5)
    add_training(task, epochs=100, batch=8, lr=5e-3)
    add_output(task)


def _qa(tasks):
    task = _task(tasks, "qa", "a memory network that answers questions about stories")
    add_data(task, "stories, questions and answers: a file of the bAbI tasks", held_out=True)
    add = task.add_argument_group("model").add_argument
    add(
        "--hidden",
        type=count,
        nargs="+",
        action=OneSize,
        default=20,
        dest="model.size",
        metavar="H",
        help="size of the embeddings" + DEFAULT,
    )
    add(
        "--hops",
        type=count,
        default=3,
        dest="model.hops",
        metavar="N",
        help="number of passes over the story" + DEFAULT,
    )
    add(
        "--memory",
        type=count,
        default=50,
        dest="model.memory",
        metavar="N",
        help="number of sentences of a story that are kept, from its end" + DEFAULT,
    )
    add(
        "--tying",
        choices=("adjacent", "layerwise"),
        default="adjacent",
        dest="model.tying",
        help="which embeddings the hops share" + DEFAULT,
    )
    add(
        "--linear-start",
        type=natural,
        default=0,
        dest="model.linear_start",
        metavar="N",
        help="number of epochs at the start without the softmax over the memory" + DEFAULT,
    )
    add_training(task, epochs=100, batch=32, lr=0.01)
    add_output(task)


def _translate(tasks):
    task = _task(tasks, "translate", "an encoder and a decoder of texts")
    add_data(task, "lines of a source text, a tab and a target text; words are separated by spaces", held_out=True)
    add = add_network(task, cell="gru", dropout=0.2, one_size=True)
    add_bidirectional(add, "read the source in both directions")
    add(
        "--attention",
        choices=("none", "additive", "dot", "general"),
        default="additive",
        dest="model.attention",
        help="how the decoder scores the outputs of the encoder" + DEFAULT,
    )
    add_min_count(add, 2, "symbols")
    add_training(task, epochs=20, batch=32, lr=2e-3)
    add_output(task)


def _caption(tasks):
    task = _task(tasks, "caption", "a decoder that writes a text for a vector")
    add_data(task, "vectors and their texts: .npz or CSV", held_out=True)
    add_min_count(add_network(task, cell="gru", one_size=True), 1, "characters")
    add_training(task, epochs=50, batch=32, lr=2e-3)
    add_output(task)
