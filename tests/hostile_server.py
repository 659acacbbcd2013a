"""Read files, each in its own process with limits of memory and time, and report how each ended.

This is a program. It receives jobs as lines of JSON, {"path", "kind", "limit", "run"}, and answers each with a line,
{"end", "error", "text", "grown"}. The end is "read", "refused", "fault" (an error that no reader may raise), "killed"
or "late". A process is forked for each file after all imports.
"""

import contextlib
import gc
import importlib
import json
import os
import resource
import signal
import sys
import warnings
from pathlib import Path

CLEAR = (ValueError, NotImplementedError, OSError, MemoryError, ImportError)
SECONDS = 20
IMPORTED = (
    "h5py", "onnx", "onnx.reference.ops", "onnxruntime", "torch", "zipfile", "fastrnn._engine", "fastrnn.convert",
    "fastrnn.keras._load", "fastrnn.models", "fastrnn.onnx", "fastrnn.cli.tasks",
)  # fmt: skip


def read(path, kind, run):
    """Use the package on such a file. run: run an ONNX model too, whose operators may take any amount of memory."""
    from fastrnn.convert import files as convert

    if kind in ("keras", "h5"):
        from fastrnn.keras import _load

        _load.read(path, None, verify=True)
        return
    if kind == "onnx":
        _prepare(path, run)
        gc.collect()  # onnx's evaluators are in reference cycles, and must not count twice
    convert._read(Path(path), convert._Options(None, None, None, "tanh", None))


def _prepare(path, run):
    """Call `prepare` with the file and with the object, and `run` with small inputs of the declared sizes."""
    import numpy as np
    import onnx

    import fastrnn.onnx

    with contextlib.suppress(*CLEAR):
        fastrnn.onnx.prepare(path)
    gc.collect()
    try:
        model = onnx.ModelProto.FromString(Path(path).read_bytes())
    except Exception:
        return
    try:
        made, feeds = fastrnn.onnx.prepare(model), {}
        if not run:
            return
        for value in model.graph.input:
            if value.name in made.input_names:
                kind = value.type.tensor_type
                shape = [
                    d.dim_value if 0 <= d.dim_value < 50 and d.HasField("dim_value") else 3 for d in kind.shape.dim[:5]
                ]
                try:
                    feeds[value.name] = np.ones(shape, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
                except (KeyError, TypeError):
                    return
        made.run(feeds)
    except TypeError as error:  # raised for an input; documented
        if not str(error).startswith(("input ", "node ", "the ")):
            raise
    except CLEAR as error:
        _check(error, None)


def _check(error, path):
    """Check that an error is one sentence that names the file."""
    text = str(error)
    if "\n" in text or not text or len(text) > 4000:
        raise AssertionError(f"the message is no sentence: {text[:300]!r}") from error
    if path is not None and path not in text and getattr(error, "filename", None) != path:
        raise AssertionError(f"the message does not name the file: {type(error).__name__}: {text[:300]}") from error


def _child(job, out):
    os.close(1)
    os.open(os.devnull, os.O_WRONLY)
    signal.alarm(SECONDS)
    warnings.simplefilter("ignore")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    size = (
        int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        if os.path.exists("/proc/self/statm")
        else 0
    )
    resource.setrlimit(resource.RLIMIT_AS, (size + job["limit"], size + job["limit"]))
    end, error, text = "read", "", ""
    try:
        try:
            read(job["path"], job["kind"], job["run"])
        except CLEAR as caught:
            end, error, text = "refused", type(caught).__name__, str(caught)[:2000]
            _check(caught, job["path"])
    except BaseException as caught:
        end, error, text = "fault", type(caught).__name__, str(caught)[:2000]
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - grown) * 1024
    os.write(out, json.dumps({"end": end, "error": error, "text": text, "grown": grown}).encode())
    os._exit(0)


def serve():
    for name in IMPORTED:
        importlib.import_module(name)

    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        job = json.loads(line)
        inside, out = os.pipe()
        sys.stdout.flush()
        child = os.fork()
        if not child:
            _child(job, out)
        os.close(out)
        with os.fdopen(inside) as pipe:
            found = pipe.read()
        status = os.waitpid(child, 0)[1]
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        if not found:
            end = "late" if number == signal.SIGALRM else "killed"
            found = json.dumps({"end": end, "error": "", "text": f"signal {number}, status {status}", "grown": 0})
        print(found, file=answers, flush=True)


if __name__ == "__main__":
    serve()
