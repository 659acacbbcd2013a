"""Build of the extensions of fastrnn._engine. All other settings of the package are in pyproject.toml.

`core` contains all C files; the other extensions call it through a table of functions (src/linked.c).
src/kernels.c is compiled once for each instruction set and dtype; src/dispatch.c selects the best table at import.
FASTRNN_DEBUG=1        bounds checks, -O1 -g, address and undefined-behaviour sanitizers (`make sanitize` runs it)
FASTRNN_DEBUG=threads  the same with ThreadSanitizer (`make sanitize-threads` runs it)
FASTRNN_ISAS=v3,v2     only these of the instruction sets of this architecture
FASTRNN_WERROR=1       warnings of the C compiler in our own C files are errors (CI)
"""

import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

DEBUG = os.environ.get("FASTRNN_DEBUG", "")
DEBUG = "" if DEBUG == "0" else DEBUG
if DEBUG not in ("", "1", "threads"):
    raise SystemExit(f"FASTRNN_DEBUG={DEBUG}, but it must be 0, 1 or threads")
WERROR = os.environ.get("FASTRNN_WERROR", "0") not in ("", "0")

EXTENSIONS = {  # name: its C files
    "core": ["src/dispatch.c", "src/team.c", "src/split.c", "src/blas.c", "src/local.c", "src/cells.c"],
    **{name: ["src/linked.c", "src/local.c", "src/cells.c"] for name in ("sweep", "bptt", "decoder", "stream", "ops")},
    "optim": ["src/local.c"],
    "packing": [],
    "plan": [],
    "rows": ["src/local.c"],
    "targets": [],
    "words": ["src/local.c"],
}
KERNELS = "src/kernels.c"
DTYPES = ["float", "double"]

# The levels of the x86-64 psABI, feature by feature: compilers before GCC 11 and Clang 12 do not know their names.
V2 = ["-march=x86-64", "-mcx16", "-msahf", "-mpopcnt", "-msse3", "-mssse3", "-msse4.1", "-msse4.2"]
V3 = [*V2, "-mavx", "-mavx2", "-mbmi", "-mbmi2", "-mf16c", "-mfma", "-mlzcnt", "-mmovbe"]
V4 = [*V3, "-mavx512f", "-mavx512bw", "-mavx512cd", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512"]
ISA_FLAGS = {
    "x86_64": {"v2": V2, "v3": V3, "v4": V4},
    "aarch64": {"aarch64": []},
    "arm64": {"aarch64": []},
}

# -ffp-contract=off: every fused multiply-add is explicit (v_fma), so that all variants of a tile give the same bits.
# Never -ffast-math. -g0 overrides the -g with which many builds of Python are configured. Without -falign-…, a change
# of one kernel moves the loops of others: measured on Zen 3, up to 8% of the time of a forward pass.
CFLAGS = ["-std=gnu11", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
CFLAGS += ["-falign-loops=32", "-falign-functions=64"]
CFLAGS += ["-O1", "-g", "-UNDEBUG", "-fno-omit-frame-pointer"] if DEBUG else ["-O3", "-g0"]
SANITIZE = {
    "": [],
    # The excluded checks triple the compile time of the kernels; the address sanitizer finds the same errors.
    "1": [
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=undefined",
        "-fno-sanitize=null,object-size,pointer-overflow",
    ],
    "threads": ["-fsanitize=thread"],
}[DEBUG]
WARNINGS = ["-Wall", "-Wextra", "-Wconversion"] + (["-Werror"] if WERROR else [])

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": bool(DEBUG),
    "wraparound": False,
    "initializedcheck": bool(DEBUG),
    "cdivision": True,
    "freethreading_compatible": True,
}


def wanted_isas(isas):
    """Select the instruction sets {name: flags} named in $FASTRNN_ISAS; all if it is not set."""
    names = [name for name in os.environ.get("FASTRNN_ISAS", "").split(",") if name] or list(isas)
    unknown = [name for name in names if name not in isas]
    if unknown:
        raise SystemExit(f"FASTRNN_ISAS names {', '.join(unknown)}, but this machine has: {', '.join(isas)}")
    return {name: flags for name, flags in isas.items() if name in names}


class BuildEngine(build_ext):
    """Compile all files in parallel, src/kernels.c once for each instruction set and dtype, and link the extensions."""

    def run(self):
        super().run()
        self.copy_openblas()

    def build_extensions(self):
        machine = self.plat_name.rpartition("-")[2]  # of the target: linux-x86_64, macosx-11.0-arm64, …
        isas = wanted_isas(ISA_FLAGS.get(machine, {"plain": []}))
        self.tuning = ["-mtune=generic"] if machine == "x86_64" else []
        self.depends = sorted([*map(str, Path("src").glob("*.h")), self.recorded_flags(isas)])
        have = [(f"HAVE_ISA_{isa}", "1") for isa in isas]
        kernels = [
            (KERNELS, f"{isa}-{real}", [("ISA", isa), ("REAL", real)], WARNINGS + flags)
            for isa, flags in reversed(isas.items())  # the slowest to compile first
            for real in DTYPES
        ]
        with ThreadPoolExecutor(self.parallel or os.cpu_count() or 1) as pool:
            core = [pool.submit(self.compile_one, *job) for job in kernels]
            generated = cythonize(
                self.extensions,
                build_dir=f"{self.build_temp}/cython",
                include_path=["src"],
                compiler_directives=DIRECTIVES,
                force=self.force,
                quiet=True,
            )
            # no warnings for the C that Cython generates
            ours = {source for c_files in EXTENSIONS.values() for source in c_files}
            jobs = {
                source: pool.submit(self.compile_one, source, "c", have, WARNINGS if source in ours else [])
                for source in {source for ext in generated for source in ext.sources}
            }
            objects = {ext.name: [jobs[source].result() for source in ext.sources] for ext in generated}
            objects["fastrnn._engine.core"] += [job.result() for job in core]
        for ext in self.extensions:
            ext.sources, ext.extra_objects, ext.depends = [], objects[ext.name], objects[ext.name]
        super().build_extensions()

    def compile_one(self, source, folder, macros, flags):
        """Compile one file into its own folder, unless the object is newer than all files it depends on."""
        folder = f"{self.build_temp}/{folder}"
        [compiled] = self.compiler.object_filenames([source], output_dir=folder)
        dependencies = [source, *self.depends]
        if (
            not self.force
            and os.path.exists(compiled)
            and os.path.getmtime(compiled) > max(map(os.path.getmtime, dependencies))
        ):
            return compiled
        self.compiler.compile(
            [source],
            output_dir=folder,
            macros=macros,
            include_dirs=["src"],
            extra_postargs=CFLAGS + self.tuning + SANITIZE + flags,
            depends=dependencies,
        )
        return compiled

    def recorded_flags(self, isas):
        """Write a file that changes with the compiler and its flags, so that objects built with others are rebuilt."""
        record = Path(self.build_temp, "flags.txt")
        flags = f"{self.compiler.compiler_so}\n{CFLAGS + SANITIZE + WARNINGS + self.tuning}\n{isas}\n{DIRECTIVES}\n"
        if self.force or not record.exists() or record.read_text() != flags:
            record.parent.mkdir(parents=True, exist_ok=True)
            record.write_text(flags)
        return str(record)

    def copy_openblas(self):
        """Copy a private OpenBLAS and its licence into fastrnn/_lib/."""
        folder = Path(self.get_ext_fullpath("fastrnn._engine.core")).parent.parent / "_lib"
        try:
            import scipy_openblas32
        except ImportError:
            if not folder.exists():
                print(
                    "fastrnn: the build requirement scipy-openblas32 is not installed: building without OpenBLAS; "
                    "training will use the built-in matrix product, which gives the same results but can be slower",
                    file=sys.stderr,
                )
            return
        from importlib.metadata import files

        library = Path(scipy_openblas32.get_lib_dir())
        wanted = [p for p in library.glob("libscipy_openblas*") if p.suffix in (".so", ".dylib")]
        licences = [Path(f.locate()) for f in files("scipy-openblas32") or [] if "LICENSE" in f.name.upper()]
        folder.mkdir(parents=True, exist_ok=True)
        # Renamed: threadpoolctl recognises OpenBLAS by its file name, and would set the threads of this copy.
        for source, name in [(p, f"fastrnn_blas{p.suffix}") for p in wanted] + [
            (p, f"OPENBLAS-{p.name}") for p in licences
        ]:
            if self.force or not (folder / name).exists() or (folder / name).stat().st_size != source.stat().st_size:
                shutil.copyfile(source, folder / name)


setup(
    ext_modules=[
        Extension(
            f"fastrnn._engine.{name}",
            sources=[f"src/fastrnn/_engine/{name}.pyx", *c_files],
            depends=[KERNELS, *sorted(map(str, [*Path("src").glob("*.h"), *Path("src").glob("**/*.pxd")]))],
            include_dirs=["src"],
            libraries=["pthread", "dl", "m"],
            extra_link_args=SANITIZE,
        )
        for name, c_files in EXTENSIONS.items()
    ],
    cmdclass={"build_ext": BuildEngine},
    options={"build": {"build_base": {"": "build", "1": "build/debug", "threads": "build/debug-threads"}[DEBUG]}},
)
