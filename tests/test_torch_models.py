"""Whole torch models on fastrnn.torch: a training script with another import, skorch, and copied weights."""

import runpy
from pydoc_data.topics import topics

import numpy as np
import processes
import pytest

import fastrnn

torch = pytest.importorskip("torch", reason="torch is not installed: fastrnn.torch is NOT tested")
pytestmark = pytest.mark.torch

TEXT = "\n".join(topics.values())[:20_000]


@pytest.fixture(scope="module")
def example():
    return runpy.run_path(str(processes.ROOT / "examples" / "torch_swap.py"))


def written(model, first, length):
    """Return greedy ids after `first`."""
    ids, state = list(first), None
    with torch.no_grad():
        logits, state = model(torch.tensor(ids)[:, None])
        for _ in range(length):
            ids.append(int(logits[-1, 0].argmax()))
            logits, state = model(torch.tensor(ids[-1:])[:, None], state)
    return ids[len(first) :]


def test_the_example_gives_the_same_loss_curve_and_its_weights_write_the_same_text_everywhere(example):
    language = fastrnn.models.LanguageModel("lstm", 32, seed=0).fit(
        TEXT, epochs=1, batch_size=32, seq_len=50, verbose=False
    )
    ids, V = torch.from_numpy(np.array(language.vocabulary.encode(TEXT), np.int64)), len(language.vocabulary.symbols)
    settings = dict(hidden_size=32, batch_size=8, seq_len=20)
    theirs, curve = example["train"]("torch", ids, V, **settings)
    mine, ours = example["train"]("fastrnn", ids, V, **settings)
    np.testing.assert_allclose(ours, curve, rtol=0, atol=1e-4)
    assert len(curve) == 200 and curve[-1] < 0.8 * curve[0]

    mine.load_state_dict(theirs.state_dict())
    for name in ("embedding", "rnn", "linear"):
        getattr(language, name).load_state_dict(getattr(theirs, name).state_dict())
    want = written(theirs, ids[:10].tolist(), 60)
    assert written(mine, ids[:10].tolist(), 60) == want
    assert language.generate(TEXT[:10], length=60, temperature=0) == language.vocabulary.decode(np.array(want))


@pytest.mark.filterwarnings("default")  # skorch's own warning
def test_skorch_trains_a_module():
    skorch = pytest.importorskip("skorch", reason="skorch is not installed: it is NOT tested")
    import fastrnn.torch

    class Last(torch.nn.Module):
        def __init__(self, hidden_size=8):
            super().__init__()
            self.rnn, self.linear = fastrnn.torch.GRU(2, hidden_size, batch_first=True), torch.nn.Linear(hidden_size, 2)

        def forward(self, x):
            return self.linear(self.rnn(x)[0][:, -1])

    torch.manual_seed(0)
    X = np.random.default_rng(0).standard_normal((80, 6, 2)).astype("float32")
    y = (X[:, -1, 0] > 0).astype("int64")
    net = skorch.NeuralNetClassifier(
        Last,
        module__hidden_size=6,
        criterion=torch.nn.CrossEntropyLoss,
        lr=0.5,
        max_epochs=20,
        verbose=0,
        train_split=None,
    )
    assert net.fit(X, y).score(X, y) > 0.9
