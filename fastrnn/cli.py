"""The ``fastrnn`` command: train a model, use it, measure it, show what it and this build are, benchmark it."""

from __future__ import annotations

import argparse
import math
import os
import sys
import warnings
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    """Run the command.

    Returns
    -------
    The exit status: 0; 1 for bad input, 2 for bad usage, each with one line on stderr; 130 after Ctrl-C.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] == ["train"] and argv[1:] and argv[1][:1] != "-":  # train qa is train --task qa
        argv.insert(1, "--task")
    try:
        arguments, rest = _parser().parse_known_args(argv)
        if arguments.command == "bench":
            arguments.rest = rest
        elif rest:
            _parser().error(f"unrecognized arguments: {' '.join(rest)}")
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="replace")  # a terminal that cannot show a character shows a question mark
        status = arguments.run(arguments)
        sys.stdout.flush()
        return status
    except SystemExit as exit:  # --help, or a wrong option
        return exit.code
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:  # the reader of a pipe has had enough: | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else error, 1)
    except (ValueError, RuntimeError, ImportError) as error:
        return _fail(error, 1)


def _fail(message, status):
    prefix = "fastrnn:" if status == 130 else "fastrnn: error:"
    print(prefix, " ".join(str(message).split()), file=sys.stderr)
    return status


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


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


def _decay(text):
    return text if text in ("cosine", "none") else _probability_or_word(text)


def _probability_or_word(text):
    try:
        return _probability(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not 'cosine', 'none' or a factor in 0 < f <= 1") from None


def _parser():
    parser = _Parser(prog="fastrnn", description="Recurrent networks on the CPU: train a model of text or of other sequences, and use it.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    _add_train(commands)
    _add_generate(commands)
    evaluate = commands.add_parser("evaluate", help="measure a model on data like that it was trained on")
    evaluate.set_defaults(run=_evaluate)
    predict = commands.add_parser("predict", help="classes, tags, translations, the next steps: what a model says of such data")
    predict.set_defaults(run=_predict)
    for command in (evaluate, predict):
        command.add_argument("model", metavar="DIR", help="directory of the model")
        command.add_argument("--data", metavar="FILE", required=True, help="UTF-8 text for a model of it; else as for train --task")
    predict.add_argument("--beam", type=_count, metavar="N", help="candidates that are followed side by side (1); for translate and caption")
    _add_convert(commands)
    info = commands.add_parser("info", help="show the configuration of this build, or of a model")
    info.add_argument("model", metavar="DIR", nargs="?", help="directory of a model")
    info.set_defaults(run=_info)
    bench = commands.add_parser("bench", help="compare the speed with torch, onnxruntime, OpenVINO, JAX and NumPy", add_help=False)
    bench.set_defaults(run=_bench)  # its options are its own: fastrnn bench --help
    return parser


# Options of `train` that only some tasks have: text these, the others those of their Task; and the defaults of text
_TEXT_ONLY = ("validation", "level", "min_count", "max_vocabulary", "pretrained", "tied", "embedding", "seq_len")
_OF_MOST = ("cell", "hidden", "layers", "dropout")
_OF_QA = ("hops", "memory", "tying", "linear_start")
_OF_SOME = ("held_out", "attention", "bidirectional", "pooling", "window", "horizon", "season", "logarithm", *_OF_MOST, *_OF_QA, *_TEXT_ONLY)
_TEXT_DEFAULTS = dict(cell="lstm", hidden=128, layers=2, dropout=0.0, epochs=20, batch=50, lr=2e-3, out="./fastrnn-lm", seq_len=50, validation=0.1)


def _add_train(commands):
    train = commands.add_parser("train", help="train a model", description="Train a model: fastrnn train TASK. Defaults are those of text.")
    add = train.add_argument
    add("--task", choices=("text", "classify", "tag", "forecast", "music", "qa", "translate", "caption"), action="append",
        help="text (default): a language model; classify: .ts files; tag: CoNLL-U; forecast: CSV; music: piano rolls as JSON; "
             "qa: bAbI stories; translate: pairs of lines; caption: vectors and texts")
    add("--data", metavar="FILE", help="for text UTF-8; without it the documentation that every Python carries (about 0.5 M characters)")
    add("--held-out", metavar="FILE", help="look at this file for the best model, in place of --validation; not for text, forecast and music")
    add("--cell", choices=("lstm", "gru", "rnn"), help="kind of recurrent layer (lstm)")
    add("--hidden", type=_count, nargs="+", metavar="H", help="units of all layers, or of each (128)")
    add("--layers", type=_count, metavar="N", help="recurrent layers (2)")
    add("--dropout", type=_fraction, metavar="P", help="probability of a zero behind each recurrent layer (0)")
    add("--batch", type=_count, metavar="B", help="streams of text, or sequences, of an update (50)")
    add("--epochs", type=_count, metavar="N", help="times through the data (20)")
    add("--optimizer", choices=("adam", "adamw", "rmsprop", "adagrad", "sgd"), default="adam", help="rule of the updates (adam)")
    add("--lr", type=_positive, help="learning rate (0.002)")
    add("--lr-decay", type=_decay, default="cosine", metavar="HOW", help="cosine (default): down to 0 at the end; a factor per epoch; or none")
    add("--weight-decay", type=_not_negative, metavar="W", help="of the optimiser")
    add("--clip", type=_not_negative, default=5.0, metavar="NORM", help="limit of the gradient's norm (5); 0: none")
    add("--accumulate", type=_count, default=1, metavar="N", help="batches of an update (1)")
    add("--validation", type=_fraction, metavar="P", help="part of the data that is held out (0.1), of text its end; not for forecast and music")
    add("--patience", type=_count, metavar="N", help="stop after N epochs without a better held-out loss")
    add("--seed", type=_natural, default=0, help="the same seed gives the same model, bit for bit (0)")
    add("--threads", type=_count, metavar="N", help="threads; all cores if not given")
    add("--out", metavar="DIR", help="directory of the model and of the checkpoint (./fastrnn-lm; ./fastrnn-classify, … for other tasks)")
    add("--log", metavar="FILE", help="write each epoch's figures there, as CSV or, if it ends in .jsonl, as JSON")
    add("--resume", action="store_true", help="continue from the checkpoint in DIR, with the same options as before")
    add("--quiet", action="store_true", help="show no progress")
    text = train.add_argument_group("text").add_argument
    text("--level", choices=("character", "word", "byte"), help="what the model reads and writes one by one (character)")
    text("--min-count", type=_count, metavar="N",
         help="rarer words are unknown words; with --level word (2), for translate (2), tag (1) and, of characters, caption (1)")
    text("--max-vocabulary", type=_vocabulary, metavar="V", help="keep the V most frequent words only, <unk> among them; with --level word")
    text("--pretrained", metavar="FILE", help="word vectors to start from, in GloVe's or word2vec's text format; with --level word")
    text("--tied", action="store_true", default=None, help="one weight for embedding and softmax")
    text("--embedding", type=_count, metavar="E", help="numbers for each symbol at the input; H if not given")
    text("--seq-len", type=_count, metavar="T", help="steps of an update (50)")
    series = train.add_argument_group("classify, forecast, translate").add_argument
    series("--bidirectional", action="store_true", default=None, help="read in both directions; for classify and translate")
    series("--attention", choices=("none", "additive", "dot", "general"), help="how the outputs of the source are scored; for translate (additive)")
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
    train.set_defaults(run=_train)


def _add_generate(commands):
    generate = commands.add_parser("generate", help="write text with a model", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = generate.add_argument
    add("model", metavar="DIR", help="directory of the model")
    add("--prompt", default="", metavar="TEXT", help="the text begins with it")
    add("--length", type=_natural, default=1000, metavar="N", help="characters, words or bytes to write")
    add("--temperature", type=_not_negative, default=0.8, help="lower is safer, higher is bolder; 0: always the most likely")
    add("--top-k", type=_count, metavar="K", help="draw from the K most likely symbols only")
    add("--top-p", type=_probability, metavar="P", help="draw from the fewest symbols that have probability P together")
    add("--seed", type=_natural, help="the same seed writes the same text")
    generate.set_defaults(run=_generate)


def _add_convert(commands):
    convert = commands.add_parser("convert", help="read a model of torch, ONNX or Keras; or write one for torch or ONNX")
    add = convert.add_argument
    add("source", metavar="SRC", help="a state_dict that torch.save wrote, .safetensors, .onnx, .keras, .h5; or the directory of a model")
    add("destination", metavar="DST", help="a directory; or a file: .onnx, .pt (a state_dict), .safetensors")
    add("--key", metavar="NAME", help="which part of a torch file is the state_dict")
    add("--nonlinearity", choices=("tanh", "relu"), default="tanh", help="of vanilla layers in a state_dict, which does not say (tanh)")
    add("--config", metavar="FILE", help="settings of a .weights.h5: what model.to_json() gave")
    add("--vocabulary", metavar="FILE", help="JSON, the characters in the order of their ids or {character: id}: makes a language model that generates")
    convert.set_defaults(run=_convert)


def _convert(arguments):
    from fastrnn.convert import convert

    options = {name: getattr(arguments, name) for name in ("key", "nonlinearity", "config", "vocabulary")}
    for line in convert(arguments.source, arguments.destination, **options):
        print(line)
    return 0


def _train(arguments):
    import fastrnn
    from fastrnn.distributed import Ranks, started_by_mpiexec

    if arguments.threads is not None:
        fastrnn.set_num_threads(arguments.threads)
    ranks = Ranks() if started_by_mpiexec() else None
    try:
        return _train_here(arguments, ranks)
    except BaseException as error:  # the other processes would wait for this one for ever
        if ranks is None or ranks.size == 1:
            raise
        if ranks.rank == 0:
            _fail(error, 1)
        ranks.abort()


def _train_here(arguments, ranks):
    from fastrnn.callbacks import CSVLog, JSONLog
    from fastrnn.optim import Cosine, ExponentialDecay
    from fastrnn.storage import holds_anything
    from fastrnn.tasks import TASKS, report, report_text

    follows = ranks is not None and ranks.rank > 0
    tasks = sorted(set(arguments.task or ["text"]))
    if len(tasks) > 1:
        raise ValueError(f"the task is {tasks[0]} and {tasks[1]}: give one of them")
    arguments.task = tasks[0]
    task = TASKS.get(arguments.task)
    _fill_in(arguments, task)
    if holds_anything(arguments.out) and not arguments.resume and not follows:
        raise ValueError(f"{arguments.out} is not empty: add --resume to continue the training there, or choose another --out")
    decay = arguments.lr_decay
    settings = dict(
        epochs=arguments.epochs,
        batch_size=arguments.batch,
        optimizer=arguments.optimizer,
        lr=arguments.lr,
        schedule=None if decay == "none" else Cosine(arguments.epochs) if decay == "cosine" else ExponentialDecay(decay),
        weight_decay=arguments.weight_decay,
        clip_norm=arguments.clip or None,
        accumulate=arguments.accumulate,
        patience=arguments.patience,
        checkpoint=arguments.out,
        resume=arguments.resume,
        distributed=ranks is not None,
        verbose=not arguments.quiet,
    )
    if arguments.log is not None:
        settings["callbacks"] = [(JSONLog if arguments.log.endswith(".jsonl") else CSVLog)(arguments.log)]
    model, data = _text_model(arguments, settings) if task is None else _task_model(arguments, task, settings)

    def show(message, *_, **__):
        if str(message) != model.message:  # that is said below
            print("fastrnn: warning:", message, file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = show
        model.fit(*data, **settings)
    if follows:
        return 0
    if model.outcome == "interrupted":
        return _fail(f"{model.message}; model and checkpoint are in {arguments.out}, --resume continues", 130)
    (report_text if task is None else report)(model, arguments.out)
    return _fail(model.message, 1) if model.outcome == "diverged" else 0


def _fill_in(arguments, task):
    """Options that were not given get the task's defaults; one that another task has is an error."""
    name = arguments.task
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
    from fastrnn.models import LanguageModel

    model = LanguageModel(
        arguments.cell,
        arguments.hidden,
        arguments.layers,
        dropout=arguments.dropout,
        embedding_size=arguments.embedding,
        level=arguments.level or "character",
        min_count=arguments.min_count,
        max_vocabulary=arguments.max_vocabulary,
        tied=bool(arguments.tied),
        seed=arguments.seed,
    )
    settings |= dict(seq_len=arguments.seq_len, validation=arguments.validation, pretrained=arguments.pretrained)
    return model, [_text_of_python() if arguments.data is None else Path(arguments.data)]


def _task_model(arguments, task, settings):
    given = {name: getattr(arguments, option) for option, name in task.options.items() if getattr(arguments, option) is not None}
    given = {name: None if value == "none" else value for name, value in given.items()}
    missing = [f"--{name}" for name in ("window", "horizon") if name in task.options and name not in given]
    if missing:
        raise ValueError(f"--task {arguments.task} needs {' and '.join(missing)}")
    common = {name: getattr(arguments, option) for option, name in task.common.items()}
    model = task.model(**given, **common, seed=arguments.seed)
    settings["validation"] = task.held_out(arguments)
    return model, task.read(arguments.data)


def _text_of_python():
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics))


def _generate(arguments):
    from fastrnn.models import LanguageModel
    from fastrnn.tasks import load

    pieces = load(arguments.model, LanguageModel).generate_iter(
        arguments.prompt, arguments.length, arguments.temperature, arguments.top_k, arguments.top_p, arguments.seed
    )
    sys.stdout.write(arguments.prompt)
    for piece in pieces:
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")
    return 0


def _evaluate(arguments):
    from fastrnn.models import LanguageModel
    from fastrnn.tasks import load, score_text, task_of

    model = load(arguments.model)
    score = score_text if isinstance(model, LanguageModel) else task_of(model).score
    print(score(model, arguments.data))
    return 0


def _predict(arguments):
    from fastrnn.models import LanguageModel
    from fastrnn.tasks import load, task_of

    model = load(arguments.model)
    if isinstance(model, LanguageModel):
        raise ValueError(f"{arguments.model} holds a LanguageModel: fastrnn generate {arguments.model} writes with it")
    task = task_of(model)
    if arguments.beam is not None and not task.searches:
        raise ValueError(f"--beam is not an option for a {type(model).__name__}")
    for line in task.predict(model, arguments.data, *([arguments.beam or 1] if task.searches else [])):
        print(line)
    return 0


def _bench(arguments):
    from fastrnn.bench.run import main

    return main(arguments.rest)


def _info(arguments):
    import fastrnn

    if arguments.model is None:
        fastrnn.show_config()
        return 0
    from fastrnn import Network
    from fastrnn.models import LanguageModel
    from fastrnn.tasks import load

    model = load(arguments.model)
    if isinstance(model, Network):
        print("model: Network", *(f"{name}: {step!r}" for name, step in model.steps.items()), f"num_parameters: {model.num_parameters}", sep="\n")
        return 0
    if not isinstance(model, LanguageModel):
        print(f"model: {type(model).__name__}")
        for name in (*model.ARGUMENTS, "dtype", "seed", "num_parameters"):
            print(f"{name}: {getattr(model, name)}")
        return 0
    for name in ("level", "cell", "hidden_size", "num_layers", "dropout", "embedding_size", "tied", "dtype", "seed", "num_parameters"):
        print(f"{name}: {getattr(model, name)}")
    print(_symbols(model))
    losses = [(entry["validation_loss"], entry["epoch"]) for entry in model.history if entry["validation_loss"] is not None]
    if losses:
        print(f"held-out NLL: {min(losses)[0]:.4f} nats per {model.level} after epoch {min(losses)[1]:g}")
    return 0


def _symbols(model):
    """How many symbols there are, and which."""
    symbols = model.vocabulary.symbols
    if model.level == "byte":
        return f"symbols: {len(symbols)} bytes"
    if model.level == "word":
        return f"symbols: {len(symbols)} words: {', '.join(map(repr, symbols[:20]))}{', …' if len(symbols) > 20 else ''}"
    return f"symbols: {len(symbols)}: {symbols!r}"
