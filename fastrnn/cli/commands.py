"""The commands of ``fastrnn``. Each takes the parsed arguments and returns an exit status."""

from __future__ import annotations

import argparse
import os
import sys
import warnings

import numpy.random  # noqa: F401  these two are imported when first used, and could lose Ctrl-C then
import tqdm  # noqa: F401

import fastrnn
from fastrnn._files.storage import check_no_training, holds_anything
from fastrnn.callbacks import CSVLog, JSONLog
from fastrnn.cli import reading, reports, tasks
from fastrnn.cli.console import fail, optional_output, say
from fastrnn.cli.parser import values
from fastrnn.convert.files import convert as convert_file
from fastrnn.distributed import Ranks, started_by_mpiexec
from fastrnn.models import LanguageModel
from fastrnn.models.loading import load
from fastrnn.optim import Cosine, ExponentialDecay


def train(arguments: argparse.Namespace) -> int:
    """Train a model; with mpiexec, as one of several processes."""
    if arguments.threads is not None:
        fastrnn.set_num_threads(arguments.threads)
    ranks = Ranks() if started_by_mpiexec() else None
    try:
        return _train_here(arguments, ranks)
    except BaseException as error:  # the other processes would wait for this one forever
        if ranks is None or ranks.size == 1:
            raise
        if ranks.rank == 0:
            fail(error, 1)
        ranks.abort()


def _train_here(arguments, ranks):
    follows = ranks is not None and ranks.rank > 0
    if follows:  # only the first process prints
        reading.drop_notes()
    else:
        _check_directory(arguments.out, values(arguments, "fit")["resume"])
        _check_log(arguments.log, continues=holds_anything(arguments.out))
    settings = _settings(arguments, ranks)
    make = _text_model if arguments.task == "text" else _task_model
    model, data = make(arguments, settings)
    reading.show_notes()
    _fit(model, data, settings)
    if follows:
        return 0
    if model.outcome == "interrupted":
        return fail(f"{model.message}; model and checkpoint are in {arguments.out}, --resume continues", 130)
    with optional_output():
        reports.report(model, arguments.out)
    return fail(model.message, 1) if model.outcome == "diverged" else 0


def _check_directory(out, resume):
    """Refuse a directory where another training runs, and one that is not empty unless the training is resumed."""
    check_no_training(out)
    full = holds_anything(out)
    if full and not resume:
        raise ValueError(f"{out} is not empty: add --resume to continue the training there, or choose another --out")
    if resume and not full:
        say(f"fastrnn: {out} is empty: training starts from the beginning")


def _check_log(path, continues):
    """Refuse to replace the log of another training; one that continues replaces its own."""
    if path is None or continues:
        return
    _log(path)  # refuses a file that is not a log, and one that cannot be written
    if os.path.isfile(path) and os.path.getsize(path):
        raise ValueError(f"{path} holds the log of another training: choose another --log, or remove the file")


def _settings(arguments, ranks):
    """What `fit` takes besides the data."""
    settings = values(arguments, "fit")
    settings |= dict(
        schedule=_schedule(arguments.lr_decay, settings["epochs"]),
        checkpoint=arguments.out,
        distributed=ranks is not None,
    )
    if arguments.log is not None:
        settings["callbacks"] = [_log(arguments.log)]
    return settings


def _log(path):
    return JSONLog(path) if path.endswith(".jsonl") else CSVLog(path)


def _schedule(decay, epochs):
    if decay == "none":
        return None
    return Cosine(epochs) if decay == "cosine" else ExponentialDecay(decay)


def _text_model(arguments, settings):
    """Make a language model, and read its text."""
    options = values(arguments, "model")
    if options["num_layers"] is None:
        options["num_layers"] = 2 if isinstance(options["hidden_size"], int) else 1
    model = LanguageModel(**options)
    settings["validation"] = arguments.validation
    given = reading.given(arguments)
    if arguments.data is not None:
        return model, [tasks.text_of(arguments.data, model.level, **given)]
    if given:
        raise ValueError("--encoding is the encoding of --data, which is not given")
    return model, [_text_of_python()]


def _task_model(arguments, settings):
    """Make the model of another task, and read its data."""
    task = tasks.TASKS[arguments.task]
    options = values(arguments, "model")
    if options.get("attention") == "none":
        options["attention"] = None
    model = task.model(**options)
    given = reading.given(arguments)
    model.reading = reading.kept(given)
    settings["validation"] = task.held_out(arguments, **given)
    return model, task.read(arguments.data, **given)


def _text_of_python():
    """The documentation of Python's statements and operators, which every installation carries."""
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics))


def _fit(model, data, settings):
    """Train, without the warning about how the training ended: the command prints that itself."""
    shown = warnings.showwarning

    def show(message, *rest):
        if str(message) != model.message:
            shown(message, *rest)

    with warnings.catch_warnings():
        warnings.showwarning = show
        model.fit(*data, **settings)


def generate(arguments: argparse.Namespace) -> int:
    """Write text with a language model, each symbol as soon as it is sampled."""
    pieces = load(arguments.model, LanguageModel).generate_iter(
        arguments.prompt, arguments.length, arguments.temperature, arguments.top_k, arguments.top_p, arguments.seed
    )
    sys.stdout.write(arguments.prompt)
    for piece in pieces:
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")
    return 0


def evaluate(arguments: argparse.Namespace) -> int:
    """Print how well a model does on a file."""
    model = load(arguments.model)
    if isinstance(model, LanguageModel):
        given = reading.given(arguments)
        reading.refuse_others(given, reading.TEXT, "LanguageModel")
        print(tasks.score_text(model, arguments.data, **given))
        return 0
    task = tasks.task_of(model)
    print(task.score(model, arguments.data, **_reading_options(arguments, task, model)))
    return 0


def predict(arguments: argparse.Namespace) -> int:
    """Print predictions for a file."""
    model = load(arguments.model)
    if isinstance(model, LanguageModel):
        raise ValueError(f"{arguments.model} holds a LanguageModel: fastrnn generate {arguments.model} writes with it")
    task = tasks.task_of(model)
    if arguments.beam is not None and not task.searches:
        raise ValueError(f"--beam is not an option for a {type(model).__name__}")
    beam = [arguments.beam or 1] if task.searches else []
    for line in task.predict(model, arguments.data, *beam, **_reading_options(arguments, task, model)):
        print(line)
    return 0


def _reading_options(arguments, task, model):
    """The options for reading a file: those that are given, and otherwise those that the model was trained with."""
    kind = type(model).__name__
    saved, given = model.reading or {}, reading.given(arguments)
    for name in saved.keys() - {*task.options}:
        raise ValueError(f"{arguments.model} holds reading.{name}, which is not an option for a {kind}")
    reading.refuse_others(given, task.options, kind)
    return saved | given


def convert(arguments: argparse.Namespace) -> int:
    """Convert a model from or to another library."""
    names = ("key", "order", "between", "nonlinearity", "config", "vocabulary")
    options = {name: getattr(arguments, name) for name in names}
    lines = convert_file(arguments.source, arguments.destination, **options)
    with optional_output():
        for line in lines:
            print(line)
    return 0


def info(arguments: argparse.Namespace) -> int:
    """Print the configuration of this build, or of a model."""
    if arguments.model is None:
        fastrnn.show_config()
    else:
        reports.describe(load(arguments.model))
    return 0


def bench(arguments: argparse.Namespace) -> int:
    """Run the benchmark; its options are its own."""
    from fastrnn.bench.run import main

    return main(arguments.rest)
