"""The cases of the official grid, and the selection for a run."""

from __future__ import annotations

import dataclasses
import zlib

import numpy as np

CELLS = {"lstm": 4, "gru": 3, "rnn": 1}  # gates
KINDS = ("forward", "train", "step", "ragged", "characters")

SHAPES = [  # T, B, I, H
    # one sequence: latency
    *[(T, 1, H, H) for T, H in ((100, 16), (100, 64), (100, 128), (100, 256), (50, 512), (25, 1024))],
    *[(T, 32, H, H) for T, H in ((50, 64), (50, 128), (50, 256), (25, 512))],  # the usual batch
    (25, 64, 1024, 1024),  # weights far beyond L2
    (50, 128, 128, 128),
    (50, 256, 64, 64),  # many rows, small network
    (100, 1, 40, 24),  # sizes that are not a multiple of a vector, I != H: audio frames, noise suppression
    (100, 1, 80, 40),
    (50, 1, 40, 96),
    (35, 1, 300, 650),  # word models
    (50, 16, 40, 200),
    (50, 32, 24, 96),
    (50, 8, 80, 320),
    (35, 20, 300, 650),
]
STEPS = (16, 64, 256, 512, 1024)  # I = H of one streaming step
SMALL, CHUNK = (8, 16, 24, 32, 40, 64), 480  # H with one input, as in audio effects; steps of a chunk
RAGGED = [(100, 32, 128, 128), (100, 16, 64, 64), (50, 64, 256, 256)]
CHARACTERS = (50, 50, 128, 128)  # 2 layers, 65 symbols
SYMBOLS = 65

QUICK = {(100, 1, 64, 64), (50, 32, 128, 128), (50, 8, 80, 320)}  # shapes of `forward` and `train` in a quick run


@dataclasses.dataclass(frozen=True)
class Case:
    """One case: T steps of B rows, I inputs, H units. kind: one of KINDS; cell: one of CELLS."""

    kind: str
    cell: str
    T: int
    B: int
    I: int
    H: int
    layers: int = 1

    @property
    def id(self):
        return f"{self.kind} {self.cell} T{self.T} B{self.B} I{self.I} H{self.H}"

    @property
    def G(self):
        return CELLS[self.cell]

    @property
    def seed(self):
        """The seed, the same for inference and training of one shape, on every machine."""
        return zlib.crc32(f"{self.cell} {self.T} {self.B} {self.I} {self.H}".encode())

    @property
    def trains(self):
        return self.kind in ("train", "ragged", "characters")

    @property
    def lengths(self):
        """The number of valid steps of each row, (B,): U[1,T] and unsorted for `ragged`, otherwise T."""
        if self.kind != "ragged":
            return np.full(self.B, self.T)
        return np.random.default_rng(self.seed).integers(1, self.T + 1, self.B)

    @property
    def valid(self):
        """The number of rows computed in all steps together."""
        return int(self.lengths.sum())

    @property
    def products(self):
        """The (recurrent, other) multiply-adds of one row and step, forward. Looking up ids in a table costs none."""
        G, I, H = self.G, self.I, self.H
        if self.kind == "characters":
            return self.layers * G * H * H, (self.layers - 1) * G * H * H + H * SYMBOLS
        return G * H * H, G * H * I

    @property
    def flops(self):
        return 2 * self.valid * sum(self.products) * (3 if self.trains else 1)


def shape(r):
    """Return the shape of a result as a label for page and charts."""
    return f"T{r['T']} B{r['B']} " + (f"H{r['H']}" if r["I"] == r["H"] else f"I{r['I']} H{r['H']}")


def official():
    """Return all cases, with inference and training of a shape next to each other."""
    cases = [Case(kind, cell, *shape) for shape in SHAPES for cell in CELLS for kind in ("forward", "train")]
    cases += [Case("step", cell, 1, 1, H, H) for H in STEPS for cell in CELLS]
    cases += [Case("ragged", cell, *shape) for shape in RAGGED for cell in CELLS]
    return cases + [Case("characters", cell, *CHARACTERS, layers=2) for cell in CELLS]


def small():
    """Return cases of one input and few units: a chunk of steps in one call, and one step per call."""
    shapes = [(kind, T, H) for H in SMALL for kind, T in (("forward", CHUNK), ("step", 1))]
    return [Case(kind, cell, T, 1, 1, H) for kind, T, H in shapes for cell in CELLS]


def quick():
    """Return a selection of cases that takes about six minutes."""

    def chosen(case):
        if case.kind in ("forward", "train"):
            return (case.T, case.B, case.I, case.H) in QUICK
        if case.kind == "step":
            return case.H in (64, 256)
        return case.kind == "characters" or case.H == 64

    return [case for case in official() if chosen(case)]


def only(cases, words):
    """Return the cases whose id contains all the words, as whole words: "B1" does not match "B128"."""
    return [case for case in cases if set(words) <= set(case.id.split())]
