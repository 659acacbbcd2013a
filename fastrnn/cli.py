"""The ``fastrnn`` command: train a language model, write with it, measure it, show what it and this build are, benchmark it."""

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
    parser = _Parser(prog="fastrnn", description="Recurrent networks on the CPU: train a language model and write with it.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    _add_train(commands)
    _add_generate(commands)
    evaluate = commands.add_parser("evaluate", help="measure a model on a text")
    evaluate.add_argument("model", metavar="DIR", help="directory of the model")
    evaluate.add_argument("--data", metavar="FILE", required=True, help="UTF-8 text; any file for a model of bytes")
    evaluate.set_defaults(run=_evaluate)
    info = commands.add_parser("info", help="show the configuration of this build, or of a model")
    info.add_argument("model", metavar="DIR", nargs="?", help="directory of a model")
    info.set_defaults(run=_info)
    bench = commands.add_parser("bench", help="compare the speed with torch, onnxruntime, OpenVINO, JAX and NumPy", add_help=False)
    bench.set_defaults(run=_bench)  # its options are its own: fastrnn bench --help
    return parser


def _add_train(commands):
    train = commands.add_parser("train", help="train a language model", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = train.add_argument
    add("--data", metavar="FILE", help="UTF-8 text; without it the documentation that every Python carries (about 0.5 M characters)")
    add("--level", choices=("character", "word", "byte"), default="character", help="what the model reads and writes one by one")
    add("--min-count", type=_count, metavar="N", help="words rarer than N become <unk>; 2 if not given; with --level word")
    add("--max-vocabulary", type=_vocabulary, metavar="V", help="keep the V most frequent words only, <unk> among them; with --level word")
    add("--pretrained", metavar="FILE", help="word vectors to start from, in GloVe's or word2vec's text format; with --level word")
    add("--tied", action="store_true", help="one weight for embedding and softmax")
    add("--cell", choices=("lstm", "gru", "rnn"), default="lstm", help="kind of recurrent layer")
    add("--hidden", type=_count, default=128, metavar="H", help="units of a layer")
    add("--layers", type=_count, default=2, metavar="N", help="recurrent layers")
    add("--embedding", type=_count, metavar="E", help="numbers for each symbol at the input; H if not given")
    add("--dropout", type=_fraction, default=0.0, metavar="P", help="probability of a zero behind each recurrent layer")
    add("--seq-len", type=_count, default=50, metavar="T", help="steps of an update")
    add("--batch", type=_count, default=50, metavar="B", help="streams of text read side by side")
    add("--epochs", type=_count, default=20, metavar="N", help="times through the text")
    add("--optimizer", choices=("adam", "adamw", "rmsprop", "adagrad", "sgd"), default="adam", help="rule of the updates")
    add("--lr", type=_positive, default=2e-3, help="learning rate")
    add("--lr-decay", type=_decay, default="cosine", metavar="HOW", help="cosine: down to 0 at the end; a factor per epoch; or none")
    add("--clip", type=_not_negative, default=5.0, metavar="NORM", help="limit of the gradient's norm; 0: none")
    add("--validation", type=_fraction, default=0.1, metavar="P", help="part of the text, at its end, that is held out")
    add("--patience", type=_count, metavar="N", help="stop after N epochs without a better held-out loss")
    add("--seed", type=_natural, default=0, help="the same seed gives the same model, bit for bit")
    add("--threads", type=_count, metavar="N", help="threads; all cores if not given")
    add("--out", default="./fastrnn-lm", metavar="DIR", help="directory of the model and of the checkpoint")
    add("--resume", action="store_true", help="continue from the checkpoint in DIR, with the same options as before")
    add("--quiet", action="store_true", help="show no progress")
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


def _train(arguments):
    import fastrnn
    from fastrnn.models import LanguageModel
    from fastrnn.optim import Cosine, ExponentialDecay
    from fastrnn.storage import holds_anything

    if holds_anything(arguments.out) and not arguments.resume:
        raise ValueError(f"{arguments.out} is not empty: add --resume to continue the training there, or choose another --out")
    if arguments.threads is not None:
        fastrnn.set_num_threads(arguments.threads)
    text = _text_of_python() if arguments.data is None else Path(arguments.data)
    decay = arguments.lr_decay
    schedule = None if decay == "none" else Cosine(arguments.epochs) if decay == "cosine" else ExponentialDecay(decay)
    model = LanguageModel(
        arguments.cell,
        arguments.hidden,
        arguments.layers,
        dropout=arguments.dropout,
        embedding_size=arguments.embedding,
        level=arguments.level,
        min_count=arguments.min_count,
        max_vocabulary=arguments.max_vocabulary,
        tied=arguments.tied,
        seed=arguments.seed,
    )

    def show(message, *_, **__):
        if str(message) != model.message:  # that is said below
            print("fastrnn: warning:", message, file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = show
        model.fit(
            text,
            epochs=arguments.epochs,
            batch_size=arguments.batch,
            seq_len=arguments.seq_len,
            optimizer=arguments.optimizer,
            lr=arguments.lr,
            schedule=schedule,
            clip_norm=arguments.clip or None,
            validation=arguments.validation,
            pretrained=arguments.pretrained,
            patience=arguments.patience,
            checkpoint=arguments.out,
            resume=arguments.resume,
            verbose=not arguments.quiet,
        )
    if model.outcome == "interrupted":
        return _fail(f"{model.message}; model and checkpoint are in {arguments.out}, --resume continues", 130)
    _report(model, arguments.out)
    return _fail(model.message, 1) if model.outcome == "diverged" else 0


def _report(model, out):
    """What training has come to."""
    losses = [entry["validation_loss"] for entry in model.history if entry["validation_loss"] is not None]
    if model.pretrained_words is not None:
        print(f"pretrained vectors: for {model.pretrained_words:,} of {len(model.vocabulary):,} words")
    if losses:
        print(f"held-out NLL: {losses[0]:.4f} before, {min(losses):.4f} after, in nats per {model.level}")
    if model.speed is not None:
        print(f"speed: {model.speed:,.0f} {model.level}s/s")
    print("it writes:", "".join(model.generate_iter(length=300, temperature=0.7, seed=0)), sep="\n")
    print(f"model: {out} ({model.num_parameters:,} parameters); more text: fastrnn generate {out}")


def _text_of_python():
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics))


def _generate(arguments):
    from fastrnn.models import LanguageModel

    pieces = LanguageModel.load(arguments.model).generate_iter(
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

    model = LanguageModel.load(arguments.model)
    nll = -model.score(Path(arguments.data))
    print(f"NLL: {nll:.4f} nats per {model.level} ({nll / math.log(2):.4f} bits), perplexity {math.exp(nll):.4f}")
    return 0


def _bench(arguments):
    from fastrnn.bench.run import main

    return main(arguments.rest)


def _info(arguments):
    import fastrnn

    if arguments.model is None:
        fastrnn.show_config()
        return 0
    from fastrnn.models import LanguageModel

    model = LanguageModel.load(arguments.model)
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
