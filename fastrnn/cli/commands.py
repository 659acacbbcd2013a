"""What each command of ``fastrnn`` does."""

from __future__ import annotations

import sys
import warnings

import numpy.random  # noqa: F401  these two are imported when first used, and may swallow Ctrl-C then
import tqdm  # noqa: F401

import fastrnn
from fastrnn._files.storage import check_no_training, holds_anything
from fastrnn.callbacks import CSVLog, JSONLog
from fastrnn.cli import reading as _reading
from fastrnn.cli import tasks
from fastrnn.cli.console import fail, optional_output, say
from fastrnn.convert.files import convert as convert_file
from fastrnn.distributed import Ranks, started_by_mpiexec
from fastrnn.layers.network import Network
from fastrnn.models import LanguageModel
from fastrnn.optim import Cosine, ExponentialDecay

# Options of `train` that only some tasks have: text these, the others those of their Task; and the defaults of text
_TEXT_ONLY = (
    "validation",
    "level",
    "min_count",
    "max_vocabulary",
    "pretrained",
    "tied",
    "embedding",
    "seq_len",
    "splitting",
)
_OF_MOST = ("cell", "hidden", "layers", "dropout")
_OF_QA = ("hops", "memory", "tying", "linear_start")
_OF_SOME = (
    "held_out",
    "attention",
    "bidirectional",
    "pooling",
    "window",
    "horizon",
    "season",
    "logarithm",
    *_OF_MOST,
    *_OF_QA,
    *_TEXT_ONLY,
)
_TEXT_DEFAULTS = dict(
    cell="lstm",
    hidden=128,
    layers=2,
    dropout=0.0,
    epochs=20,
    batch=50,
    lr=2e-3,
    out="./fastrnn-lm",
    seq_len=50,
    validation=0.1,
)


def convert(arguments):
    options = {
        name: getattr(arguments, name) for name in ("key", "order", "between", "nonlinearity", "config", "vocabulary")
    }
    lines = convert_file(arguments.source, arguments.destination, **options)
    with optional_output():
        for line in lines:
            print(line)
    return 0


def train(arguments):
    if arguments.threads is not None:
        fastrnn.set_num_threads(arguments.threads)
    ranks = Ranks() if started_by_mpiexec() else None
    try:
        return _train_here(arguments, ranks)
    except BaseException as error:  # the other processes would wait for this one for ever
        if ranks is None or ranks.size == 1:
            raise
        if ranks.rank == 0:
            fail(error, 1)
        ranks.abort()


def _train_here(arguments, ranks):
    follows = ranks is not None and ranks.rank > 0
    if follows:  # the first process says what there is to say
        _reading.drop_notes()
    names = sorted(set(arguments.task or ["text"]))
    if len(names) > 1:
        raise ValueError(f"the task is {names[0]} and {names[1]}: give one of them")
    arguments.task = names[0]
    task = tasks.TASKS.get(arguments.task)
    _fill_in(arguments, task)
    if not follows:
        check_no_training(arguments.out)
    if holds_anything(arguments.out) and not arguments.resume and not follows:
        raise ValueError(
            f"{arguments.out} is not empty: add --resume to continue the training there, or choose another --out"
        )
    if arguments.resume and not follows and not holds_anything(arguments.out):
        say(f"fastrnn: {arguments.out} is empty: training starts from the beginning")
    decay = arguments.lr_decay
    settings = dict(
        epochs=arguments.epochs,
        batch_size=arguments.batch,
        optimizer=arguments.optimizer,
        lr=arguments.lr,
        schedule=None
        if decay == "none"
        else Cosine(arguments.epochs)
        if decay == "cosine"
        else ExponentialDecay(decay),
        weight_decay=arguments.weight_decay,
        clip_norm=arguments.clip or None,
        accumulate=arguments.accumulate,
        nonfinite=arguments.nonfinite,
        check_finite=arguments.check_finite,
        patience=arguments.patience,
        checkpoint=arguments.out,
        resume=arguments.resume,
        distributed=ranks is not None,
        verbose=not arguments.quiet,
    )
    if arguments.log is not None:
        settings["callbacks"] = [(JSONLog if arguments.log.endswith(".jsonl") else CSVLog)(arguments.log)]
    model, data = _text_model(arguments, settings) if task is None else _task_model(arguments, task, settings)
    _reading.show_notes()

    shown = warnings.showwarning

    def show(message, *rest):
        if str(message) != model.message:  # that is said below
            shown(message, *rest)

    with warnings.catch_warnings():
        warnings.showwarning = show
        model.fit(*data, **settings)
    if follows:
        return 0
    if model.outcome == "interrupted":
        return fail(f"{model.message}; model and checkpoint are in {arguments.out}, --resume continues", 130)
    with optional_output():
        (tasks.report_text if task is None else tasks.report)(model, arguments.out)
    return fail(model.message, 1) if model.outcome == "diverged" else 0


def _fill_in(arguments, task):
    """Options that were not given get the task's defaults; one that another task has is an error."""
    name = arguments.task
    if arguments.held_out is not None and arguments.validation is not None:
        raise ValueError("--validation and --held-out both say what is held out: give one of them")
    own = (*_OF_MOST, *_TEXT_ONLY) if task is None else (*task.common, *task.options, *task.decides_by)
    for option in _OF_SOME:
        if option not in own and getattr(arguments, option) is not None:
            raise ValueError(f"--{option.replace('_', '-')} is not an option of --task {name}")
    if arguments.data is None and task is not None:
        raise ValueError(f"--task {name} needs --data FILE: {task.file}")
    defaults = _TEXT_DEFAULTS | ({} if task is None else {"out": f"./fastrnn-{name}", "hidden": 128, **task.defaults})
    if arguments.hidden is not None:
        arguments.hidden = arguments.hidden[0] if len(arguments.hidden) == 1 else arguments.hidden
        if not isinstance(arguments.hidden, int) and task is not None and task.one_size:
            raise ValueError(f"--hidden is one number for --task {name}, but there are {len(arguments.hidden)}")
        if not isinstance(arguments.hidden, int) and arguments.layers is None:
            arguments.layers = 1
    for option, value in defaults.items():
        if getattr(arguments, option) is None:
            setattr(arguments, option, value)


def _text_model(arguments, settings):
    model = LanguageModel(
        arguments.cell,
        arguments.hidden,
        arguments.layers,
        dropout=arguments.dropout,
        embedding_size=arguments.embedding,
        level=arguments.level or "character",
        min_count=arguments.min_count,
        max_vocabulary=arguments.max_vocabulary,
        splitting=arguments.splitting,
        tied=bool(arguments.tied),
        seed=arguments.seed,
    )
    settings |= dict(seq_len=arguments.seq_len, validation=arguments.validation, pretrained=arguments.pretrained)
    reading = _reading.given(arguments, () if arguments.data is None else ("encoding",), "of --task text")
    return model, [
        _text_of_python() if arguments.data is None else tasks.text_of(arguments.data, model.level, **reading)
    ]


def _task_model(arguments, task, settings):
    given = {
        name: getattr(arguments, option)
        for option, name in task.options.items()
        if getattr(arguments, option) is not None
    }
    given = {name: None if value == "none" else value for name, value in given.items()}
    missing = [f"--{name}" for name in ("window", "horizon") if name in task.options and name not in given]
    if missing:
        raise ValueError(f"--task {arguments.task} needs {' and '.join(missing)}")
    common = {name: getattr(arguments, option) for option, name in task.common.items()}
    model = task.model(**given, **common, seed=arguments.seed)
    reading = _reading.given(arguments, task.reading, f"of --task {arguments.task}")
    model.reading = _reading.kept(reading)
    settings["validation"] = task.held_out(arguments, **reading)
    return model, task.read(arguments.data, **reading)


def _text_of_python():
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics))


def generate(arguments):
    pieces = tasks.load(arguments.model, LanguageModel).generate_iter(
        arguments.prompt, arguments.length, arguments.temperature, arguments.top_k, arguments.top_p, arguments.seed
    )
    sys.stdout.write(arguments.prompt)
    for piece in pieces:
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")
    return 0


def evaluate(arguments):
    model = tasks.load(arguments.model)
    if isinstance(model, LanguageModel):
        print(
            tasks.score_text(model, arguments.data, **_reading.given(arguments, ("encoding",), "for a LanguageModel"))
        )
        return 0
    task = tasks.task_of(model)
    print(task.score(model, arguments.data, **_reading_of(arguments, task, model)))
    return 0


def _reading_of(arguments, task, model):
    """How a file is read: as those that the model was trained on, where nothing else is said."""
    saved = model.reading or {}
    for name in saved.keys() - {*task.reading}:
        raise ValueError(f"{arguments.model} holds reading.{name}, which is no option for a {type(model).__name__}")
    return saved | _reading.given(arguments, task.reading, f"for a {type(model).__name__}")


def predict(arguments):
    model = tasks.load(arguments.model)
    if isinstance(model, LanguageModel):
        raise ValueError(f"{arguments.model} holds a LanguageModel: fastrnn generate {arguments.model} writes with it")
    task = tasks.task_of(model)
    if arguments.beam is not None and not task.searches:
        raise ValueError(f"--beam is not an option for a {type(model).__name__}")
    beam = [arguments.beam or 1] if task.searches else []
    for line in task.predict(model, arguments.data, *beam, **_reading_of(arguments, task, model)):
        print(line)
    return 0


def bench(arguments):
    from fastrnn.bench.run import main

    return main(arguments.rest)


def info(arguments):
    if arguments.model is None:
        fastrnn.show_config()
        return 0
    model = tasks.load(arguments.model)
    if isinstance(model, Network):
        print(
            "model: Network",
            *(f"{name}: {step!r}" for name, step in model.steps.items()),
            f"num_parameters: {model.num_parameters}",
            sep="\n",
        )
        return 0
    if not isinstance(model, LanguageModel):
        print(f"model: {type(model).__name__}")
        for name in (*model.ARGUMENTS, "dtype", "seed", "num_parameters"):
            print(f"{name}: {getattr(model, name)}")
        return 0
    for name in (
        "level",
        "cell",
        "hidden_size",
        "num_layers",
        "dropout",
        "embedding_size",
        "tied",
        "dtype",
        "seed",
        "num_parameters",
    ):
        print(f"{name}: {getattr(model, name)}")
    if model.level == "word":
        print(f"splitting: {model.splitting}")
    print(_symbols(model))
    losses = [
        (entry["validation_loss"], entry["epoch"]) for entry in model.history if entry["validation_loss"] is not None
    ]
    if losses:
        print(f"held-out NLL: {min(losses)[0]:.4f} nats per {model.level} after epoch {min(losses)[1]:g}")
    return 0


def _symbols(model):
    """How many symbols there are, and which."""
    symbols = model.vocabulary.symbols
    if model.level == "byte":
        return f"symbols: {len(symbols)} bytes"
    if model.level == "word":
        return (
            f"symbols: {len(symbols)} words: {', '.join(map(repr, symbols[:20]))}{', …' if len(symbols) > 20 else ''}"
        )
    return f"symbols: {len(symbols)}: {symbols!r}"
