"""The command: measure the cases, write one JSON for each number of threads after every case, then make the report."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

from fastrnn.cli.parser import Parser

from . import grid, machine, measure, report
from .peers import PEERS
from .workers import Missing, Worker, WorkerError, cpus

FULL, LIGHT = 12.0, 6.0  # approximate seconds per case with all peers, and without those that compile


def parser():
    p = Parser(
        prog="fastrnn bench",
        description="Compare fastrnn with torch, onnxruntime, OpenVINO, JAX and NumPy: first the outputs, then times.",
        epilog="Missing peers are listed in the results; pip install 'fastrnn[bench]' installs them.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    p.add_argument("--threads", type=int, default=1, metavar="N", help="threads and CPUs of every peer; 0: all")
    p.add_argument(
        "--quick", action="store_true", help="only a part of the grid, about six minutes for each number of threads"
    )
    p.add_argument(
        "--small", action="store_true", help="one input and few units, as in audio effects, instead of the usual sizes"
    )
    p.add_argument(
        "--cold", action="store_true", help="do other work between calls, so that code and data leave the caches"
    )
    p.add_argument(
        "--only", default="", metavar="WORD[,WORD]", help="only cases whose id has all these words: train,lstm,B32"
    )
    p.add_argument(
        "--peers", default=",".join(list(PEERS)[1:]), metavar="NAME[,NAME]", help="the libraries to compare with"
    )
    p.add_argument("--out", type=Path, default=Path("build/bench"), metavar="DIR", help="folder for results and report")
    p.add_argument(
        "--resume", action="store_true", help="keep the cases already in DIR, of the same commit and threads"
    )
    p.add_argument("--report-only", action="store_true", help="only make the page and tables from the results in DIR")
    return p


def chosen_cases(arguments):
    if arguments.quick and arguments.small:
        raise ValueError("--quick and --small select different cases: omit one of them")
    every = grid.quick() if arguments.quick else grid.small() if arguments.small else grid.official()
    cases = grid.only(every, arguments.only.replace(",", " ").split())
    if not cases:
        raise ValueError(f"no case has all the words of --only {arguments.only}; an id looks like this: {every[0].id}")
    return cases


def start_workers(names, threads, folder):
    """Start the workers: ([Worker], {name: why a peer is missing}). fastrnn comes first and must be available."""
    workers, missing = [], {}
    for name in names:
        log = folder / f"{name}-{threads}-threads.log"
        log.unlink(missing_ok=True)
        try:
            workers.append(Worker(name, threads, log))
        except (Missing, WorkerError) as error:
            if name == "fastrnn":
                raise
            missing[name] = str(error).strip().splitlines()[-1]
    return workers, missing


def idle_cpu(workers, seconds=0.3):
    """{name: CPU seconds per second} of workers that should be idle. A thread pool that spins would slow the others."""
    before = {worker.name: worker.cpu_seconds() for worker in workers}
    time.sleep(seconds)
    return {
        worker.name: (worker.cpu_seconds() - before[worker.name]) / seconds
        for worker in workers
        if before[worker.name] is not None
    }


def load(path, content):
    """Read the results of an earlier run in `path`, which must be of the same commit and CPU."""
    if not path.exists():
        return []
    old = json.loads(path.read_text())
    for key in ("commit", "cpu", "cold"):
        then, now = old["machine"].get(key, False), content["machine"][key]
        if then != now:
            raise ValueError(
                f"--resume: {path} has {key} {then}, but this run has {now}: omit --resume, or choose another --out"
            )
    return old["results"]


def run(cases, names, threads, out, resume=False, say=print, cold=False):
    """Measure the cases and return the path of the JSON. `say` is called with one line for each case."""
    path = out / f"bench-{threads}-threads.json"
    workers, missing = start_workers(["fastrnn", *names], threads, out / "logs")
    for name, why in missing.items():
        print(f"{name} is missing: {why}", file=sys.stderr)
    try:
        fastrnn = workers[0]
        limits = fastrnn.ask("limits")
        versions = {worker.name: worker.version for worker in workers}
        record = fastrnn.ask("record")
        record |= {"cpus": os.cpu_count(), "pinned_to": cpus(threads), "cold": cold}
        record = {**record, "caches": limits["caches"], "versions": {**record["versions"], **versions}}
        removed = {name: value for name, value in os.environ.items() if name.startswith(machine.POOLS)}
        content = {
            "machine": {**record, "removed_environment": removed},
            "limits": limits,
            "threads": threads,
            "missing": missing,
        }
        content["results"] = load(path, content) if resume else []
        if path.exists() and not resume:
            os.replace(path, path.with_suffix(".old.json"))
        done = {result["id"] for result in content["results"]}
        for k, case in enumerate(cases, 1):
            if case.id in done:
                say(f"{k}/{len(cases)} {case.id}: already there")
                continue
            result = measure.measure(case, workers, limits, threads, cold)
            content["results"].append(result)
            content.setdefault("idle_cpu", idle_cpu(workers))
            machine.write(path, content)
            say(f"{k}/{len(cases)} {line(result)}")
    finally:
        for worker in workers:
            worker.close()
    return path


def line(result):
    """Describe one case in a line."""
    ours = result["times"]["fastrnn"]["median"]
    words = f"{result['id']:34} {1e6 * ours:11.1f} us"
    if result["best_peer"] is not None:
        words += (
            f"  {result['ratio']:6.2f} [{result['ratio_low']:.2f}, {result['ratio_high']:.2f}] x {result['best_peer']}"
        )
    failed = "".join(f"  {name}: {why}" for name, why in result["failed"].items())
    return (
        words
        + f"  {result['limit_seconds'] / ours:4.0%} of the {result['limit_bound']} limit"
        + "  (noisy)" * result["noisy"]
        + failed
    )


def main(argv=None):
    """Run the command and return the exit status."""
    arguments = parser().parse_args(argv)
    unknown = set(names := [name for name in arguments.peers.split(",") if name]) - set(PEERS)
    if unknown:
        raise ValueError(f"--peers {','.join(unknown)}: unknown; the peers are {', '.join(PEERS)}")
    if not arguments.report_only:
        from tqdm import tqdm

        most = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        if not 0 <= arguments.threads <= most:
            raise ValueError(f"--threads {arguments.threads}: from 1 to {most}, the CPUs here, or 0 for all of them")
        threads = arguments.threads or most
        cases = chosen_cases(arguments)
        per_case = FULL if "jax" in names else LIGHT
        minutes = len(cases) * per_case / 60
        print(f"{len(cases)} cases on {report.plural(threads)}, about {minutes:.0f} minutes", file=sys.stderr)
        with tqdm(total=len(cases), unit="case", disable=None, dynamic_ncols=True) as bar:

            def say(words):
                bar.write(words, file=sys.stderr)
                bar.update()

            peers = [name for name in names if name != "fastrnn"]
            path = run(cases, peers, threads, arguments.out, arguments.resume, say, arguments.cold)
    page = report.write(arguments.out)
    if not arguments.report_only:
        print("results:", path)
    print("report:", page, page.with_name("table.md"))
    return 0
