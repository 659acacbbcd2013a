"""The client of hostile_server.py: sends it files and checks how reading them ended."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import processes

SUFFIX = {"torch": ".pt", "safetensors": ".safetensors", "keras": ".keras", "h5": ".h5", "onnx": ".onnx"}
# The memory that reading may take: a multiple of the file's bytes, plus what the smallest file takes.
TIMES, MORE = 24, 96 << 20


class Server:
    """A process that reads each file in a process of its own; use it in a with statement."""

    def __init__(self, folder):
        self.folder = Path(folder)

    def __enter__(self):
        program = str(Path(__file__).with_name("hostile_server.py"))
        self.process = subprocess.Popen(
            [sys.executable, program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env=processes.environment(
                OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", FASTRNN_NUM_THREADS="1", KERAS_BACKEND="torch"
            ),
        )
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(timeout=30)

    def read(self, data, kind, limit=2 << 30, run=False):
        """Read a file with these bytes and return {"end", "error", "text", "grown"}.

        limit : bytes of memory that it may take
        run : whether to run an ONNX model too
        """
        path = self.folder / f"case{SUFFIX[kind]}"
        path.write_bytes(data)
        print(
            json.dumps({"path": str(path), "kind": kind, "limit": limit, "run": run}),
            file=self.process.stdin,
            flush=True,
        )
        return json.loads(self.process.stdout.readline())


def complaint(found, size, run=False):
    """Return what is wrong with how reading a file of this size ended, or "". Running a model may take any memory."""
    if found["end"] not in ("read", "refused"):
        return f"{found['end']} {found['error']}: {found['text']}"
    if not run and found["grown"] > TIMES * size + MORE:
        return f"took {found['grown']} bytes for a file of {size}: {found['end']} {found['text']}"
    return ""


def count(kind, seeds, folder):
    """Return {complaint: seeds} of mutants of a kind, and how many were read and refused."""
    import foreign_files
    import mutators

    model = foreign_files.onnx_model() if kind == "onnx" else None
    ends, wrong = {}, {}
    with Server(folder) as server:
        for seed in seeds:
            data = mutators.mutant(kind, np.random.default_rng(seed), model)
            run = bool(seed % 2)
            found = server.read(data, kind, run=run)
            ends[found["end"]] = ends.get(found["end"], 0) + 1
            text = complaint(found, len(data), run)
            if text:
                wrong.setdefault(text, []).append(seed)
    return ends, wrong


if __name__ == "__main__":  # python hostile_files.py FOLDER COUNT [FIRST [KIND …]]
    folder, number, first = Path(sys.argv[1]), int(sys.argv[2]), int((sys.argv[3:] or [0])[0])
    for kind in sys.argv[4:] or SUFFIX:
        ends, wrong = count(kind, range(first, first + number), folder)
        print(kind, ends, flush=True)
        for text, seeds in sorted(wrong.items(), key=lambda item: -len(item[1])):
            print(f"  {len(seeds)} (seed {seeds[0]}): {text[:300]!r}", flush=True)
