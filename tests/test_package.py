"""The package from the outside: import, symbols, docstring and README examples, the choice of instruction set."""

import ast
import doctest
import importlib
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import processes
import pytest
from conftest import NEEDS

import fastrnn
from fastrnn import _engine

# What an adapter module needs beyond the runtime dependencies; all other modules must be importable everywhere.
OPTIONAL = {name: name for name in ("torch", "onnx", "keras", "sklearn", "threadpoolctl")} | {
    "distributed": "mpi4py",
    "plotting": "matplotlib",
}


def module_names():
    names = ["fastrnn"]
    for module in pkgutil.walk_packages(fastrnn.__path__, "fastrnn."):
        parts = module.name.split(".")
        needs = OPTIONAL.get(parts[1])
        if parts[-1] != "__main__" and parts[1] != "bench" and (needs is None or importlib.util.find_spec(needs)):
            names.append(module.name)
    return names


def test_import_takes_no_time():
    """The budget is 0.15 s of CPU time (about 0.07 is NumPy's); best of five, doubled for slow machines."""
    code = "import time; start = time.process_time(); import fastrnn; fastrnn.LSTM; print(time.process_time() - start)"
    best = min(float(processes.output(code)) for _ in range(5))
    assert best < 2 * 0.15, f"{best:.3f} s"


def test_import_starts_no_thread_and_imports_no_optional_package():
    code = """
import os, sys
import numpy
before = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 0
import fastrnn
fastrnn.LSTM
after = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 0
assert after == before, f"{after - before} threads were started"
heavy = ["torch", "onnx", "keras", "sklearn", "mpi4py", "matplotlib", "scipy", "threadpoolctl", "tqdm", "safetensors",
         "multiprocessing", "concurrent.futures"]
found = [name for name in heavy if name in sys.modules]
assert not found, found
"""
    processes.output(code)


def test_the_command_starts_before_numpy_is_imported():
    """An error of an import, and Ctrl-C during it, can then be one line without a traceback."""
    processes.output("import sys, fastrnn.cli; assert not {'numpy', 'argparse', 'fastrnn._engine'} & set(sys.modules)")


def test_a_public_name_is_never_its_module():
    code = (
        "import fastrnn.models; from fastrnn import *; "
        "print(*(type(globals()[name]).__name__ for name in fastrnn.__all__))"
    )
    assert "module" not in processes.output(code).split()
    assert set(fastrnn.__all__) <= set(dir(fastrnn))


def test_help_needs_none_of_the_optional_packages():
    code = """
import sys
for name in ("keras", "onnx", "sklearn", "threadpoolctl", "torch", "matplotlib", "mpi4py"):
    sys.modules[name] = None
import importlib.util, inspect
kept = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if sys.modules.get(name, 0) is None else kept(name, *rest)
import fastrnn
print(*(name for name, _ in inspect.getmembers(fastrnn)))
"""
    shown = processes.output(code).split()
    assert {"LSTM", "models", "plotting"} <= set(shown) and not {"torch", "keras", "onnx", "importlib"} & set(shown)


def test_one_thread_is_one_thread():
    """Training on one thread starts no other thread, neither ours nor BLAS's."""
    if not os.path.isdir("/proc/self/task"):
        pytest.skip("this system does not list threads in /proc/self/task")
    code = """
import os
import numpy as np, fastrnn
before = len(os.listdir("/proc/self/task"))
fastrnn.set_num_threads(1)
net = fastrnn.LSTM(64, 128)
(y, _), backward = net.vjp(np.ones((50, 32, 64), "float32"))
backward(y)
print(len(os.listdir("/proc/self/task")) - before)
"""
    assert processes.output(code).strip() == "0"


def test_what_is_public_is_there():
    for name in fastrnn.__all__:
        assert getattr(fastrnn, name) is not None, name
    assert {"RNN", "GRU", "LSTM", "Embedding", "Linear", "Dropout"} <= set(fastrnn.__all__)
    assert {"set_num_threads", "get_num_threads", "threads", "show_config"} <= set(fastrnn.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        fastrnn.no_such_name  # noqa: B018
    assert (processes.PACKAGE / "py.typed").exists()


EXTENSIONS = ["bptt", "core", "decoder", "ops", "optim", "stream", "sweep"]


def extension(name):
    """Return the file of one of the compiled modules."""
    return importlib.import_module(f"fastrnn._engine.{name}").__file__


@pytest.mark.parametrize("name", EXTENSIONS)
def test_an_extension_exports_its_init_function_and_nothing_else(name):
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("nm is not installed")
    listed = subprocess.run(
        [nm, "-D", "--defined-only", extension(name)], capture_output=True, text=True, check=True
    ).stdout
    names = {line.split()[-1] for line in listed.splitlines()}
    assert names - {"_init", "_fini"} == {f"PyInit_{name}"}


@pytest.mark.parametrize("name", EXTENSIONS)
def test_no_executable_stack_and_no_foreign_library(name):
    """An extension needs only the C library: neither OpenMP nor a system BLAS."""
    readelf = shutil.which("readelf")
    if readelf is None:
        pytest.skip("readelf is not installed")
    listed = subprocess.run([readelf, "-dlW", extension(name)], capture_output=True, text=True, check=True).stdout
    needed = set(re.findall(r"NEEDED.*\[(.*?)\]", listed))
    allowed = ("libc.", "libm.", "libpthread.", "libdl.", "ld-linux", "libgcc_s.", "libasan.", "libubsan.")
    assert all(name.startswith(allowed) for name in needed), needed
    stack = re.search(r"GNU_STACK.*", listed)
    assert stack is None or "RWE" not in stack.group()


# --- instruction sets ---------------------------------------------------------


@pytest.mark.parametrize("name", _engine.available_isas())
def test_every_instruction_set_can_be_forced(name):
    code = (
        "import sys, fastrnn; from fastrnn import _engine; "
        "assert _engine.isa() == sys.argv[1], _engine.isa(); fastrnn.show_config()"
    )
    assert name in processes.output(code, name, FASTRNN_ISA=name)


def test_the_best_instruction_set_is_chosen():
    assert processes.output("from fastrnn import _engine; print(_engine.isa())").strip() == _engine.available_isas()[0]


def test_an_unknown_instruction_set_is_a_clear_error():
    done = processes.python("import fastrnn; fastrnn.LSTM", FASTRNN_ISA="v9")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(
        f"FASTRNN_ISA=v9, but this CPU can run: {', '.join(_engine.available_isas())}"
    )


def test_an_unknown_blas_is_a_clear_error(tmp_path):
    code = "import numpy as np, fastrnn\n(y, _), b = fastrnn.RNN(4, 64).vjp(np.ones((50, 32, 4), 'float32'))\nb(y)"
    done = processes.python(code, FASTRNN_BLAS=str(tmp_path / "none.so"))
    assert done.returncode == 1 and "none.so" in done.stderr.splitlines()[-1]


def test_show_config_names_version_isa_blas_and_threads():
    shown = processes.output("import fastrnn; fastrnn.show_config()")
    assert fastrnn.__version__ in shown
    assert all(isa in shown for isa in _engine.available_isas())
    for word in ("BLAS", "threads", "compiler"):
        assert word.lower() in shown.lower(), word


# --- examples -----------------------------------------------------------------


@pytest.mark.parametrize("name", module_names())
def test_docstring_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    failed, _ = doctest.testmod(module, extraglobs={"np": np, "fastrnn": fastrnn}, optionflags=flags)
    assert failed == 0


@pytest.mark.parametrize(
    "cls", [fastrnn.RNN, fastrnn.GRU, fastrnn.LSTM, fastrnn.Embedding, fastrnn.Linear, fastrnn.Dropout]
)
def test_the_public_layers_have_an_example(cls):
    parser = doctest.DocTestFinder(exclude_empty=True)
    assert any(test.examples for test in parser.find(cls, cls.__name__)), f"{cls.__name__} has no docstring example"


def marks_of(text):
    """Return the markers for what a script imports beyond the runtime dependencies."""
    words = set(re.findall(r"(?:^\s*(?:import|from)\s+|\bfastrnn\.)(\w+)", text, flags=re.MULTILINE))
    words |= {"onnxruntime"} if "onnx" in words else set()
    return [getattr(pytest.mark, name) for name in sorted(words & NEEDS.keys())]


def page_examples():
    """Return the Python examples of README and the pages for users, by page and number."""
    for name in (
        "README.md",
        "docs/models.md",
        "docs/data.md",
        "docs/torch.md",
        "docs/onnx.md",
        "docs/keras.md",
        "docs/sklearn.md",
        "docs/moving.md",
    ):
        page = processes.ROOT / name
        text = page.read_text(encoding="utf-8") if page.exists() else ""
        for k, code in enumerate(re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)):
            yield pytest.param(code, id=f"{name}-{k}", marks=marks_of(code))


def test_readme_has_python_examples():
    assert sum(example.id.startswith("README") for example in page_examples()) >= 2, (
        "one of the layer API, one of LanguageModel"
    )


# Warnings that realistic texts and short training runs may cause
OF_DATA = (
    "-W",
    "ignore:the held-out part has",
    "-W",
    "ignore:the text has",
    "-W",
    "ignore:y has",
    "-W",
    "ignore:no evaluation found a better",
)


@pytest.mark.parametrize("code", list(page_examples()))
def test_examples_of_pages_run(code, tmp_path):
    script = tmp_path / "example.py"
    script.write_text(code, encoding="utf-8")
    kerass = (
        "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"  # Keras 3.15 under NumPy 2
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", kerass, *OF_DATA, script],
        cwd=tmp_path, env=processes.environment(), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


# Options that shorten an example, and words in its output; the others have --epochs and print an accuracy.
SHORT = {
    "answer_questions.py": (["--restarts", "1", "--epochs", "5"], "mean test error: "),
    "adding_problem.py": (["--updates", "40", "--length", "30"], "update 40: test error"),
    "autonomous.py": (["--updates", "20"], "round 100: error"),
    "copy_memory.py": (["--updates", "20", "--delay", "5", "--hidden", "16"], "update 20: "),
    "char_rnn.py": (["--epochs", "1", "--hidden", "16"], "nats per character"),
    "forecast.py": (["--epochs", "1", "--seeds", "1"], "seasonal naive: MASE"),
    "min_char_rnn.py": (["--iterations", "1000"], "iteration 1000: smoothed loss"),
    "music.py": (["--epochs", "1", "--seeds", "1", "--hidden", "16"], "nats/frame"),
    "pronounce.py": (["--epochs", "1", "--hidden", "16", "--decoder", "16"], "(WER)"),
    "torch_swap.py": (["--steps", "20"], "step 20: loss"),
    "translate.py": (["--epochs", "1", "--hidden", "16", "--decoder", "16"], "BLEU"),
    "word_lm.py": (["--epochs", "1", "--hidden", "16"], "per word"),
}


def commands_of_results():
    """Return the commands of docs/results.md as words, without `python` and without the files in data/."""
    page = processes.ROOT / "docs" / "results.md"
    lines = page.read_text(encoding="utf-8").splitlines() if page.exists() else []
    commands = [line.split("#")[0].split()[1:] for line in lines if line.startswith("    python examples/")]
    return sorted({tuple(word for word in command if not word.startswith("data/")) for command in commands})


def example_scripts():
    """Return the scripts for which no command of the results is run below."""
    others = {command[0] for command in commands_of_results()}
    for path in sorted(
        path for path in (processes.ROOT / "examples").glob("*.py") if f"examples/{path.name}" not in others
    ):
        yield pytest.param(path.name, id=path.name, marks=marks_of(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("script", list(example_scripts()))
def test_the_scripts_in_examples_run_on_data_of_their_own(script, tmp_path):
    options, words = SHORT.get(script, (["--epochs", "1"], "accuracy"))
    done = subprocess.run(
        [sys.executable, "-W", "error", *OF_DATA, processes.ROOT / "examples" / script, *options],
        cwd=tmp_path, env=processes.environment(), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert words in done.stdout


def test_the_results_have_commands():
    scripts = {command[0].removeprefix("examples/") for command in commands_of_results()}
    assert scripts >= {path.name for path in (processes.ROOT / "examples").glob("*.py")} - {
        "word_lm.py",
        "torch_swap.py",
    }


@pytest.mark.parametrize("command", commands_of_results(), ids=" ".join)
def test_the_commands_of_the_results_run_in_short_form(command, tmp_path):
    script = command[0].removeprefix("examples/")
    options, words = SHORT.get(script, (["--epochs", "1"], "accuracy"))
    done = subprocess.run(
        [sys.executable, "-W", "error", *OF_DATA, processes.ROOT / command[0], *command[1:], *options],
        cwd=tmp_path, env=processes.environment(), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert words in done.stdout


@pytest.mark.parametrize("script", sorted(path.name for path in (processes.ROOT / "examples").glob("*.py")))
def test_the_scripts_in_examples_are_short(script):
    assert len((processes.ROOT / "examples" / script).read_text().splitlines()) <= 80


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_every_module_can_be_imported_first():
    """Imports only point downwards: a cycle fails for the module that is imported first."""
    code = """
import os, pkgutil, sys, numpy
folder = os.path.dirname(__import__("importlib.util").util.find_spec("fastrnn").origin)
names = [found.name for found in pkgutil.walk_packages([folder], "fastrnn.")]
names = [name for name in names if name.split(".")[1] not in sys.argv[1:]]
wrong = []
for name in names:
    child = os.fork()
    if not child:
        try:
            __import__(name)
        except BaseException as error:
            print(f"{name}: {type(error).__name__}: {error}", flush=True)
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        wrong.append(name)
print(len(names), len(wrong))
"""
    adapters = [
        "bench",
        "keras",
        "onnx",
        "sklearn",
        "threadpoolctl",
        "torch",
    ]  # these need packages, which their own tests import
    told = processes.output(code, *adapters)
    count, wrong = map(int, told.splitlines()[-1].split())
    assert count > 50 and wrong == 0, told


# From the lowest floor to the highest (docs/design.md, section 3). Adapters and plotting are above all of them.
FLOORS = (
    *(
        "_engine",
        "_types",
        "_check",
        "_files",
        "parameters",
        "_core",
        "layers",
        "losses",
        "optim",
        "search",
        "callbacks",
    ),
    *("batches", "distributed", "settings", "training", "data", "models", "convert", "cli"),
)


def imports_of(path):
    """Parts of fastrnn that a module imports when it runs, rather than for type checkers only."""
    skipped = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            skipped |= {(inner.lineno, inner.col_offset) for inner in ast.walk(node) if hasattr(inner, "lineno")}
        if isinstance(node, ast.ImportFrom) and (node.lineno, node.col_offset) not in skipped:
            module = (node.module or "").split(".")
            if module[0] == "fastrnn":
                yield from [module[1]] if len(module) > 1 else [alias.name for alias in node.names]


def test_imports_point_downwards_only():
    package = Path(fastrnn.__file__).parent
    upwards = set()
    for path in package.rglob("*.py"):
        own = path.relative_to(package).parts[0].removesuffix(".py")
        if own in FLOORS:
            above = {*FLOORS[FLOORS.index(own) + 1 :], "torch", "onnx", "keras", "sklearn", "plotting"}
            upwards |= {(own, found) for found in imports_of(path) if found in above}
    assert upwards == {("convert", "onnx")}  # when a file of ONNX is to be converted
