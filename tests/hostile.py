"""Load damaged model directories and checkpoints with correct hashes, and classify the outcome.

Run as a program, it tries many of them under a limit of memory and time, and prints a line of JSON for each case:

    python hostile.py models|checkpoints|command FIRST_SEED COUNT FOLDER
"""

import contextlib
import io
import json
import random
import resource
import signal
import sys
import traceback
import warnings
from pathlib import Path

import model_cases
import numpy as np
from damaged_models import CASES, CHECKPOINTS, damage, networks, options, read, use

import fastrnn
from fastrnn import Network, cli

ROOM = (
    200 << 20
)  # bytes of address space in addition to the initial size of the process: the directories have a few thousand
SECONDS = 20  # seconds for a case, on a busy machine


class Hang(BaseException):
    """A case takes too long."""


@contextlib.contextmanager
def limited():
    """Limit the time of the enclosed code."""

    def too_long(*_):
        raise Hang(f"more than {SECONDS} s")

    signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def outcome(load, then, folder):
    """Return ("loaded" | "refused" | "wrong", details) for a directory."""
    at = "load"
    try:
        with limited(), warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            model = load()
            at = "use"
            then(model)
    except (ValueError, OSError) as error:
        named = str(folder) in str(error) and "\n" not in str(error)
        if at == "load":
            return (
                ("refused", "") if named else ("wrong", f"load: {type(error).__name__} does not name the file: {error}")
            )
        return ("loaded", "")  # using the model reports what is wrong with its numbers
    except MemoryError as error:
        return ("loaded", "") if at == "use" else ("wrong", f"load: MemoryError: {error}")
    except RuntimeError as error:
        if at == "use" and type(error) is RuntimeError and "NaN" in str(error):
            return ("loaded", "")
        return ("wrong", f"{at}: {traceback.format_exc(limit=-3)}")
    except BaseException:
        return ("wrong", f"{at}: {traceback.format_exc(limit=-3)}")
    return ("loaded", "")


def made(folder):
    """Return {name: (directory, data)} of briefly trained models, and of networks."""
    found = {}
    for n, (name, case) in enumerate(CASES.items()):
        data = case.data(np.random.default_rng(n), 12)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            case.make(seed=0).fit(*data, **options(name)).save(folder / f"model {n}")
        found[name] = folder / f"model {n}", data
    for name, net in networks().items():
        net.save(folder / name)
        found[name] = folder / name, None
    return found


def models(seeds, folder):
    """Try model directories: (seed, name, outcome, details)."""
    sources = {
        name: (*read(path), data, json.loads((path / "config.json").read_text())["config"]["model"])
        for name, (path, data) in made(folder).items()
    }
    names = list(sources)
    limit()
    for seed in seeds:
        rng = random.Random(seed)
        name = names[seed % len(names)]
        arrays, config, data, cls = sources[name]
        place = folder / f"case {seed}"
        damage(rng, arrays, config, place)
        load = (Network if cls == "Network" else getattr(fastrnn.models, cls)).load
        yield (
            seed,
            name,
            *outcome(
                lambda place=place, load=load: load(place),
                lambda model, name=name, data=data: use(name, model, data),
                place,
            ),
        )


def checkpoints(seeds, folder):
    """Try checkpoints by resuming training from them."""
    sources = {}
    for n, name in enumerate(CHECKPOINTS):
        case = CASES[name]
        data, place = case.data(np.random.default_rng(n), 12), folder / f"checkpoint {n}"
        more = dict(validation=case.held_out, evaluate_every=1)
        stop = [lambda entry: entry["update"] >= 1]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            case.make(seed=0).fit(*data, **options(name) | more, checkpoint=place, callbacks=stop)
        sources[name] = *read(place, "checkpoint"), data, more
    limit()
    for seed in seeds:
        rng = random.Random(seed)
        name = CHECKPOINTS[seed % len(CHECKPOINTS)]
        arrays, config, data, more = sources[name]
        place = folder / f"case {seed}"
        damage(rng, arrays, config, place, "checkpoint")

        def load(name=name, data=data, place=place, more=more):
            return CASES[name].make(seed=0).fit(*data, **options(name) | more, checkpoint=place, resume=True)

        yield seed, name, *outcome(load, lambda model: None, place)


def command(seeds, folder):
    """Try the command on damaged directories."""
    text = folder / "text"
    text.write_text(model_cases.text(np.random.default_rng(0), 12)[0])
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        train = [
            "train",
            "--data",
            str(text),
            "--hidden",
            "3",
            "--layers",
            "1",
            "--batch",
            "3",
            "--seq-len",
            "5",
            "--epochs",
            "1",
            "--quiet",
        ]
        assert cli.main([*train, "--out", str(folder / "lm")]) == 0
    train[train.index("--epochs") + 1] = "1"
    sources = {path.name: path for path, _ in made(folder).values()} | {"lm": folder / "lm"}
    limit()
    for seed in seeds:
        rng = random.Random(seed)
        verb = rng.choice(["info", "predict", "generate", "evaluate", "train"])
        name = "lm" if verb == "train" else rng.choice(list(sources))
        kind = "checkpoint" if verb == "train" else "model"
        place = folder / f"case {seed}"
        damage(rng, *read(sources[name], kind), place, kind)
        words = {
            "info": ["info", str(place)],
            "predict": ["predict", str(place), "--data", str(text)],
            "generate": ["generate", str(place), "--length", "5"],
            "evaluate": ["evaluate", str(place), "--data", str(text)],
            "train": [*train, "--resume", "--out", str(place)],
        }[verb]
        errors, status = io.StringIO(), None
        try:
            with limited(), contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
                status = cli.main(words)
        except Hang as error:
            errors.write(str(error))
        lines = [
            line
            for line in errors.getvalue().splitlines()
            if not line.startswith(("fastrnn: warning", "fastrnn: note"))
        ]
        right = (status == 0 and not lines) or (status == 1 and len(lines) == 1 and "unexpected" not in lines[0])
        yield (
            seed,
            f"{verb} {name}",
            "wrong" if not right else "refused" if status else "loaded",
            "" if right else f"status {status}: {lines}",
        )


def limit():
    """Limit the further memory of this process to `ROOM`."""
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + ROOM, size + ROOM))


if __name__ == "__main__":
    fastrnn.set_num_threads(1)
    trials = {"models": models, "checkpoints": checkpoints, "command": command}[sys.argv[1]]
    first, how_many, where = int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])

    def announced():
        """Print each seed before its case, so that a crash of the process leaves it."""
        for seed in range(first, first + how_many):
            print(json.dumps([seed]), flush=True)
            yield seed

    for case in trials(announced(), where):
        print(json.dumps(case), flush=True)
