"""Modules in the current folder, beside a downloaded file, are not run by the command or by processes it starts."""

import subprocess
import sys

import foreign_files as files
import processes
import pytest

# The modules that the command and its processes import. A file of such a name in the current folder would be run.
PLANTED = (
    "abc", "argparse", "base64", "bench", "codecs", "collections", "contextlib", "copy", "csv", "ctypes",
    "dataclasses", "datetime", "enum", "errno", "functools", "hashlib", "importlib", "inspect", "io", "json",
    "logging", "math", "os", "pathlib", "pickle", "pickletools", "platform", "queue", "random", "re",
    "resource", "select", "shutil", "signal", "site", "sitecustomize", "socket", "stat", "string", "struct",
    "subprocess", "tempfile", "textwrap", "threading", "time", "traceback", "types", "typing",
    "usercustomize", "uuid", "warnings", "weakref", "zipfile", "zlib", "h5py", "keras", "ml_dtypes", "numpy",
    "onnx", "onnxruntime", "regex", "safetensors", "torch", "tqdm",
)  # fmt: skip
# the script that pip creates for the entry point
COMMAND = "import sys\nfrom fastrnn.cli import command\n\nsys.exit(command())\n"


@pytest.fixture
def folder(tmp_path):
    """Create a current folder with modules of these names, which leave a mark when they are imported."""
    here = tmp_path / "downloads"
    here.mkdir()
    for name in PLANTED:
        (here / f"{name}.py").write_text(
            f"open({str(tmp_path / 'marks')!r}, 'a').write({name + ' '!r})\nraise ImportError('planted: {name}')\n"
        )
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "fastrnn").write_text(COMMAND)
    return here


def run(folder, *words, options=()):
    return subprocess.run(
        [sys.executable, *options, *map(str, words)],
        cwd=folder,
        env=processes.environment(OMP_NUM_THREADS="1"),
        capture_output=True,
        text=True,
        timeout=120,
    )


def marks(folder):
    path = folder.parent / "marks"
    return path.read_text() if path.exists() else ""


@pytest.mark.keras
@pytest.mark.parametrize("name", ["m.keras", "m.h5"])
def test_no_module_of_the_current_folder_is_imported_by_convert(folder, name):
    (folder / name).write_bytes(files.keras_bytes() if name == "m.keras" else files.h5_bytes())
    done = run(folder, folder.parent / "bin" / "fastrnn", "convert", name, "out")
    assert marks(folder) == "", done.stderr
    assert done.returncode == 0, done.stderr
    assert (folder / "out" / "config.json").exists()


@pytest.mark.torch
@pytest.mark.onnxruntime
def test_the_command_without_further_processes_does_not_search_it_either(folder):
    (folder / "m.onnx").write_bytes(files.onnx_bytes())
    done = run(folder, folder.parent / "bin" / "fastrnn", "convert", "m.onnx", "out")
    assert marks(folder) == "" and done.returncode == 0, done.stderr


@pytest.mark.keras
def test_a_library_call_starts_no_module_of_the_current_folder(folder):
    """Started from a script in another folder, like an application."""
    (folder / "m.keras").write_bytes(files.keras_bytes())
    (folder.parent / "bin" / "program.py").write_text(
        "import fastrnn.keras\nprint(fastrnn.keras.load('m.keras').num_parameters)\n"
    )
    done = run(folder, folder.parent / "bin" / "program.py")
    assert marks(folder) == "" and done.returncode == 0, done.stderr


@pytest.mark.keras
def test_python_m_fastrnn_searches_the_current_folder_last(folder):
    """Python itself imports a few modules first; those are not planted here."""
    (folder / "m.keras").write_bytes(files.keras_bytes())
    for name in PLANTED:
        if name not in ("resource", "json", "h5py", "numpy", "argparse", "subprocess", "zipfile"):
            (folder / f"{name}.py").unlink()
    done = run(folder, "-m", "fastrnn", "convert", "m.keras", "out")
    assert marks(folder) == "" and done.returncode == 0, done.stderr


@pytest.mark.keras
def test_the_packages_of_pythonpath_are_found_by_the_trial_process(folder, tmp_path):
    """An isolated process ignores PYTHONPATH: the parent passes its module search path."""
    more = tmp_path / "more"
    (more / "h5py").mkdir(parents=True)
    (more / "h5py" / "__init__.py").write_text("raise ImportError('the h5py of PYTHONPATH')\n")
    (folder / "m.keras").write_bytes(files.keras_bytes())
    environment = processes.environment()
    environment["PYTHONPATH"] = f"{more}:{environment['PYTHONPATH']}"
    command = [sys.executable, str(folder.parent / "bin" / "fastrnn"), "convert", "m.keras", "out"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "the h5py of PYTHONPATH" in done.stderr, done.stderr
    assert marks(folder) == ""


def test_the_workers_of_the_benchmark_start_no_module_of_the_current_folder(folder):
    package = "fastrnn.bench" if (processes.PACKAGE / "bench").exists() else "bench"
    (folder.parent / "bin" / "program.py").write_text(
        f"import sys, pathlib\nfrom {package}.workers import Worker\n"
        f"worker = Worker('fastrnn', 1, pathlib.Path({str(folder.parent / 'log')!r}))\n"
        "print(worker.version)\nworker.close()\n"
    )
    done = run(folder, folder.parent / "bin" / "program.py")
    log = folder.parent / "log"
    assert marks(folder) == "" and done.returncode == 0, done.stderr + (log.read_text() if log.exists() else "")


def test_no_command_line_of_the_package_starts_python_unisolated():
    """The package starts Python only with -I, or in a separate folder."""
    found = []
    for folder in ("fastrnn", "bench", "examples"):
        for path in sorted((processes.ROOT / folder).rglob("*.py")):
            lines = path.read_text(encoding="utf-8").splitlines()
            found += [
                f"{path}:{k + 1}"
                for k, line in enumerate(lines)
                if "sys.executable" in line and '"-I"' not in line and '"-m"' not in line
            ]
    assert found == []
