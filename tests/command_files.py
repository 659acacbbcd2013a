"""Files of every format that the command reads, valid and damaged."""

import datetime
import importlib.util
import io
import json
import os
import re

import numpy as np
from safetensors.numpy import save_file

from fastrnn.convert import state_dict
from fastrnn.layers.rnn import GRU, LSTM
from fastrnn.models import LanguageModel


def text(rng):
    return "".join(f"{n} squared is {n * n}, né {rng.random():.3f}.\n" for n in range(30)).encode()


def series(rng):
    rows = (
        ":".join(",".join(f"{rng.gauss(0, 1):.3f}" for _ in range(5)) for _ in range(2)) + f":{rng.choice('ab')}"
        for _ in range(10)
    )
    return ("@problemName fuzz\n@classLabel true a b\n@data\n" + "\n".join(rows) + "\n").encode()


def targets(rng):
    rows = (",".join(f"{rng.gauss(0, 1):.3f}" for _ in range(5)) + f":{rng.random():.3f}" for _ in range(10))
    return ("@problemName fuzz\n@targetlabel true\n@data\n" + "\n".join(rows) + "\n").encode()


def conllu(rng):
    sentence = "# text\n1\tdogs\tdog\tNOUN\tN\t_\t0\troot\t_\t_\n2\tbark\tbark\tVERB\tV\t_\t1\tx\t_\t_\n\n"
    return (sentence * 6).encode()


def table(rng):
    days = (datetime.date(2024, 1, 1) + datetime.timedelta(k) for k in range(40))
    return (
        "date,sales,price\n" + "".join(f"{day},{day.day + rng.random():.2f},{day.day % 7}\n" for day in days)
    ).encode()


def rolls(rng):
    piece = [[60, 64], [], [62], [rng.randrange(21, 109)]]
    return json.dumps({part: [piece, piece] for part in ("train", "valid", "test")}).encode()


def babi(rng):
    return ("1 Mary went home.\n2 John went to the garden.\n3 Where is Mary?\thome\t1\n" * 5).encode()


def pairs(rng):
    return "".join(f"{a} {b}\t{b} {a}\n" for a in "abcd" for b in "abcd").encode()


def captions(rng):
    return ("width,height,text\n" + "".join(f"{k},{rng.random():.2f},a tall box {k % 3}\n" for k in range(12))).encode()


def arrays(rng):
    file = io.BytesIO()
    np.savez(file, vectors=np.arange(12.0).reshape(6, 2), texts=np.array(["tall", "wide", "tall", "a b", "b", "c"]))
    return file.getvalue()


def vectors(rng):
    return "".join(
        f"{word} {' '.join(str(rng.random()) for _ in range(4))}\n" for word in ("squared", "is", "né")
    ).encode()


FORMATS = [text, series, targets, conllu, table, rolls, babi, pairs, captions, arrays, vectors]
SUFFIX = {
    series: ".ts",
    targets: ".ts",
    conllu: ".conllu",
    table: ".csv",
    rolls: ".json",
    captions: ".csv",
    arrays: ".npz",
}
ODD = [
    "",
    "nan",
    "inf",
    "-inf",
    "1e300",
    "1e-300",
    "-1",
    "½",
    "1_000",
    "9" * 400,
    "?",
    '"',
    "\0",
    "\t",
    ",",
    ":",
    "\r",
    "\u2028",
    "<unk>",
    "é",
]


def damaged(rng, data):
    """Return the bytes, changed in one to three places."""
    for _ in range(rng.randint(1, 3)):
        data = changed(rng, data)
    return data


def changed(rng, data):
    place = rng.randrange(len(data) + 1)
    lines = data.split(b"\n")
    line = rng.randrange(len(lines))
    odd = rng.choice(ODD).encode()
    return rng.choice(
        [
            lambda: data[:place],
            lambda: data[place:],
            lambda: data[:place] + rng.randbytes(rng.randint(1, 5)) + data[place:],
            lambda: data[:place] + odd + data[place:],
            lambda: data[:place] + rng.randbytes(1) + data[place + 1 :],
            lambda: b"\n".join(lines[:line] + lines[line + 1 :]),
            lambda: b"\n".join([*lines[:line], lines[line], *lines[line:]]),
            lambda: b"\n".join([*lines[:line], odd, *lines[line:]]),
            lambda: re.sub(rb"\d+(\.\d+)?", odd.replace(b"\\", b""), data, count=rng.randint(1, 3)),
            lambda: data.replace(
                rng.choice([b",", b"\t", b" ", b":", b"\n"]),
                rng.choice([b"", b" ", b";", b"\t", b"\n\n", b"\r\n", b"\r"]),
            ),
            lambda: rng.choice(
                [
                    b"",
                    b" \n" * 3,
                    b"\xef\xbb\xbf",
                    b"\xff\xfe",
                    b"[" * 100_000,
                    b'{"train":' * 50_000,
                    b"\0" * 100,
                    b"null",
                    b"{}",
                ]
            ),
            lambda: data + rng.randbytes(30),
            lambda: data.decode("utf-8", "replace").encode(rng.choice(["utf-16", "utf-32", "cp037"]), "replace"),
            lambda: rng.choice(FORMATS)(rng),
        ]
    )()


def a_file(rng, folder, make):
    """Return a path: of valid data, damaged data, data of another format, or of no file."""
    path = folder / f"data{rng.randrange(10**9)}{SUFFIX.get(make, '.txt')}"
    kind = rng.random()
    if kind < 0.05:
        return rng.choice([folder / "nowhere", folder, folder / "a\nb", "", "a" * 5000, "/dev/null", path / "below"])
    data = make(rng) if kind < 0.4 else damaged(rng, make(rng)) if kind < 0.9 else rng.choice(FORMATS)(rng)
    path.write_bytes(data)
    if kind > 0.97 and hasattr(os, "geteuid") and os.geteuid() != 0:
        path.chmod(0)
    return path


def sources(folder):
    """Write the files that `convert` reads."""
    lstm, gru = LSTM(3, 4, seed=1), GRU(3, 4, bidirectional=True, seed=1)
    save_file(dict(lstm.state_dict()), folder / "lstm.safetensors")
    save_file({f"rnn.{name}": np.array(a) for name, a in gru.state_dict().items()}, folder / "gru.safetensors")
    model = LanguageModel("gru", 4, seed=1).fit(
        "to be or not to be " * 20, epochs=1, batch_size=2, seq_len=5, verbose=False
    )
    layers = {"e": model.embedding, "r": model.rnn, "l": model.linear}
    tensors = state_dict.from_layers(layers)
    save_file({name: np.array(array) for name, array in tensors.items()}, folder / "lm.safetensors")
    (folder / "vocabulary.json").write_text(json.dumps(list(model.vocabulary.symbols)))
    found = list(folder.glob("*.safetensors"))
    if importlib.util.find_spec("torch"):
        import torch

        torch.save(torch.nn.GRU(3, 4).state_dict(), folder / "gru.pt")
        torch.save({"model": torch.nn.LSTM(3, 4).state_dict(), "epoch": 3}, folder / "training.pt")
        found += folder.glob("*.pt")
    if importlib.util.find_spec("onnx"):
        import fastrnn.onnx

        fastrnn.onnx.export(lstm, folder / "lstm.onnx")
        found.append(folder / "lstm.onnx")
    return found
