"""Compare fastrnn.torch's modules, and the engine itself, with torch.nn's modules.

Outputs (and gradients, in training) are compared before anything is timed; then the three take turns. `kept` is the
percentage of the engine's ratio that is left when it is called through the module.

    python -m bench.torch_modules --threads 1       all cases, a few minutes
    python -m bench.torch_modules --short           small cases, as a check
"""

from __future__ import annotations

import argparse
import statistics
from time import perf_counter

import numpy as np

import fastrnn

from .machine import cpu_model

SIZES = {
    "step": (1, 1, 256, 256),
    "small": (50, 1, 64, 64),
    "middle": (50, 32, 64, 128),
    "large": (100, 32, 64, 256),
    "wide": (50, 64, 128, 512),
}
SHORT = {"step": (1, 1, 16, 16), "middle": (10, 4, 8, 16)}


def calls(torch, kind, training, T, B, I, H):
    """Return {name: a function without arguments that runs once and returns the outputs to compare}."""
    import fastrnn.torch

    torch.manual_seed(0)
    theirs, ours, engine = (
        getattr(torch.nn, kind)(I, H),
        getattr(fastrnn.torch, kind)(I, H),
        getattr(fastrnn, kind)(I, H),
    )
    for other in (ours, engine):
        other.load_state_dict(theirs.state_dict())
    x = torch.randn(T, B, I)
    dy = torch.randn(T, B, H)

    def module(net):
        def run():
            if not training:
                with torch.no_grad():
                    return [net(x)[0].numpy()]
            net.zero_grad()
            y, _ = net(x)
            y.backward(dy)
            return [y.detach().numpy(), *(p.grad.numpy() for p in net.parameters())]

        return run

    def arrays():
        if not training:
            return [engine(x.numpy())[0]]
        (y, _), backward = engine.vjp(x.numpy())
        return [y, *backward(dy.numpy(), need_x=False).params.values()]

    return {"torch": module(theirs), "module": module(ours), "engine": arrays}


def measure(found, seconds):
    """Return {name: median seconds}, and the medians over rounds of torch's time / each other's."""
    want = found["torch"]()
    for who in ("module", "engine"):
        for got, expected in zip(found[who](), want, strict=True):
            np.testing.assert_allclose(
                got, expected, rtol=1e-3, atol=1e-4 * max(1, np.abs(expected).max()), err_msg=who
            )
    times, end = {who: [] for who in found}, perf_counter() + seconds
    while perf_counter() < end or len(times["torch"]) < 5:
        for who, run in found.items():
            start = perf_counter()
            run()
            times[who].append(perf_counter() - start)
    ratios = {who: statistics.median(a / b for a, b in zip(times["torch"], times[who])) for who in ("module", "engine")}
    return {who: statistics.median(t) for who, t in times.items()}, ratios


def main(arguments=None):
    import torch

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each case")
    parser.add_argument("--short", action="store_true")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    print(f"{cpu_model()}; torch {torch.__version__}; {options.threads} threads")
    print("| case | T, B, I, H | torch.nn µs | module µs | torch / module | torch / engine | kept |")
    print("|---|---|---|---|---|---|---|")
    with fastrnn.threads(options.threads):
        for name, sizes in (SHORT if options.short else SIZES).items():
            for kind in ("LSTM", "GRU", "RNN"):
                for training in (False, True):
                    times, ratios = measure(
                        calls(torch, kind, training, *sizes), 0.0 if options.short else options.seconds
                    )
                    cells = [f"{kind} {name} {'training' if training else 'inference'}", ", ".join(map(str, sizes))]
                    cells += [f"{times[who] * 1e6:.0f}" for who in ("torch", "module")] + [
                        f"{ratio:.2f}" for ratio in ratios.values()
                    ]
                    print("| " + " | ".join([*cells, f"{ratios['module'] / ratios['engine']:.0%}"]) + " |", flush=True)


if __name__ == "__main__":
    main()
