"""kill -9 at random moments: the directory can always be loaded, and resumed training reaches the same bits."""

import os
import re
import subprocess
import sys
import time

import fuzz
import numpy as np
import processes
import pytest

from fastrnn._files import storage

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX signals and fork")

TRAININGS = """
import os, sys, time
import numpy as np
from fastrnn.models import SequenceClassifier

def train(folder):
    rng = np.random.default_rng(0)
    X = [rng.standard_normal((rng.integers(2, 9), 3)) for _ in range(24)]
    y = [("up", "down")[int(x.sum() > 0)] for x in X]
    model = SequenceClassifier("gru", 5, seed=3, dropout=0.2, num_layers=2)
    options = dict(epochs=6, batch_size=4, validation=0.25, resume=True, verbose=False)
    model.fit(X, y, **options, checkpoint=folder, checkpoint_every=0)
    return model.storage.flat.tobytes().hex()

for line in sys.stdin:  # a training in a child, killed after so many seconds, or not
    folder, delay = line.split()
    child = os.fork()
    if child == 0:
        print(train(folder), flush=True)
        os._exit(0)
    if delay != "never":
        time.sleep(float(delay))
        os.kill(child, 9)
    if os.waitpid(child, 0)[1] == 9:
        print("killed", flush=True)
"""


@pytest.fixture
def train(tmp_path):
    """Train in a process that is killed, and return its output and how long it ran."""
    with subprocess.Popen(
        [sys.executable, "-c", TRAININGS],
        env=processes.environment(OMP_NUM_THREADS="1"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:

        def call(folder, delay="never"):
            begun = time.monotonic()
            process.stdin.write(f"{folder} {delay}\n")
            process.stdin.flush()
            return process.stdout.readline().strip(), time.monotonic() - begun

        yield call


@pytest.mark.fuzz
def test_training_killed_at_random_moments_reaches_the_same_bits(train, tmp_path):
    """Training saves after every update and is killed and resumed; the directory can be loaded at every moment."""
    whole, seconds = train(tmp_path / "whole")
    killed = 0
    for seed in fuzz.seeds("kill -9", 2):
        rng, folder = np.random.default_rng(seed), tmp_path / str(seed)
        with fuzz.named(seed):
            for _ in range(5):
                said, _ = train(folder, rng.uniform(0, seconds / 5))
                assert said in ("killed", whole)
                killed += said == "killed"
                for kind in storage.CONFIG_FILES:
                    if storage.exists(folder, kind=kind):
                        storage.load(folder, kind=kind)
            assert train(folder)[0] == whole
            names = sorted(re.sub("-.*", "", path.name) for path in folder.iterdir())
            assert names == ["checkpoint", "checkpoint.json", "config.json", "model"]
    assert killed > 0
