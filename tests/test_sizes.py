"""Sizes are compared with the available memory, and with the arrays of a file, before anything is created."""

import sys
import tracemalloc

import processes
import pytest
from damaged_models import CASES, data_of, edited, error_of, read, set_to

import fastrnn
from fastrnn import Network, cli, models
from fastrnn._check import memory as check_memory

if sys.platform != "linux":
    pytest.skip("needs Linux's memory limits", allow_module_level=True)

import resource

import hostile


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return {name: directory} of a model of every kind."""
    return {name: path for name, (path, _) in hostile.made(tmp_path_factory.mktemp("models")).items()}


BOMBS = {
    "text": ("hidden_size", 6000),
    "events": ("num_layers", 10**12),
    "classifier": ("hidden_size", [4] * 1000),
    "tagger": ("word_size", 10**8),
    "pairs": ("attention_size", 10**8),
    "vectors": ("embedding_size", 10**7),
    "stories": ("memory", 10**9),
    "stories, layerwise": ("size", 10**5),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_takes_little_memory(name, saved, tmp_path):
    key, value = BOMBS[name]

    def change(arrays, config):
        config[key] = value
        if config.get("attention_size"):
            config["attention"] = "additive"

    folder = edited(saved[name], tmp_path / "m", change)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    message = error_of(getattr(models, read(folder)[1]["model"]).load, folder)
    assert message.startswith(f"{folder / 'config.json'}: the sizes do not match the saved arrays: ")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


def test_a_network_of_large_layers_is_refused_before_any_is_made(saved, tmp_path):
    def change(arrays, config):
        config["steps"] = [
            [f"l{k}", {"kind": "Linear", "dtype": "float32", "in_features": 10, "out_features": 10}]
            for k in range(1000)
        ]

    message = error_of(Network.load, edited(saved["network"], tmp_path / "m", change))
    assert "the sizes do not match the saved arrays: Linear(10, 10) has 110 parameters in 2 arrays" in message


LARGE = [
    lambda: fastrnn.LSTM(3, 10**9),
    lambda: fastrnn.GRU(3, 4, 10**12),
    lambda: fastrnn.RNN(3, 1, 10**9),
    lambda: fastrnn.RNN(2**62, 2**62, 2**62),
    lambda: fastrnn.LSTM(3, 4, context_size=10**12),
    lambda: fastrnn.Embedding(10**7, 10**7),
    lambda: fastrnn.Linear(10**12, 10**3),
    lambda: fastrnn.AttentionDecoder(fastrnn.GRU(3, 4), 10**12),
    lambda: fastrnn.layers.build.make(fastrnn.GRU, 3, 4, 10**12, residual=True),
    lambda: models.LanguageModel("gru", 4, 2**31).fit("to be or not " * 40, batch_size=2, seq_len=5, verbose=False),
    lambda: models.MemoryNetwork(memory=2**31 - 1, size=10**6).fit([([["a"]], ["b"])] * 4, ["c"] * 4, verbose=False),
]


@pytest.mark.parametrize("n", range(len(LARGE)))
def test_what_does_not_fit_into_memory_is_refused_at_once_with_both_sizes(n):
    with pytest.raises(
        MemoryError,
        match=(
            r"parameters of .+ need [\d.e+]+ [TPE]B of memory, but .+ [\d.]+ "
            r"[kMGT]B: use (smaller sizes|fewer layers)"
        ),
    ):
        LARGE[n]()


@pytest.mark.parametrize("size", [10**12, 2**62])
def test_what_a_call_asks_for_is_compared_with_the_memory_that_there_is(size, saved):
    forecaster, events, pairs = (getattr(models, cls).load(saved[name]) for cls, name in (
        ("Forecaster", "forecaster"), ("EventModel", "events"), ("EncoderDecoder", "pairs"),
    ))  # fmt: skip
    for call in (
        lambda: fastrnn.GRU(3, 4).stream(size), lambda: forecaster.predict(size), lambda: events.generate(size),
        lambda: pairs.predict(["abc"], max_length=size),
    ):  # fmt: skip
        with pytest.raises(
            MemoryError, match=r" need [\d.e+]+ [TPE]B of memory, but .+ [\d.]+ [kMGT]B: (use|give|ask)"
        ):
            call()


def test_a_whole_number_beyond_the_address_space_is_refused():
    with pytest.raises(ValueError, match=f"hidden_size is {10**30}, but it must be at most {sys.maxsize}"):
        fastrnn.GRU(3, 10**30)
    assert models.EventModel(seed=10**30).seed == 10**30


def test_many_small_layers_are_made_in_linear_time():
    def calls(L):
        """Return the number of Python lines that were executed."""
        count = 0

        def trace(frame, event, argument):
            nonlocal count
            count += 1
            return trace

        sys.settrace(trace)
        try:
            fastrnn.RNN(1, 1, L, seed=0)
        finally:
            sys.settrace(None)
        return count

    assert calls(400) < 4.4 * calls(100)


def test_a_fit_that_would_need_more_memory_than_there_is_changes_nothing(monkeypatch):
    monkeypatch.setattr(check_memory, "_UNCHECKED", 0)
    monkeypatch.setattr(check_memory, "_ARRAY_OBJECT_BYTES", 0)
    monkeypatch.setattr(check_memory, "available", lambda: (2_500, "this machine has"))
    model, data = CASES["events"].make(seed=0), data_of("events")
    with pytest.raises(
        MemoryError, match=r"training 140 parameters: copies of them need 2.8 kB of memory, but this machine has 2.5 kB"
    ):
        model.fit(*data, verbose=False)
    assert model.storage is None


def test_available_memory_is_that_of_the_tightest_limit():
    code = """
import resource, sys
from fastrnn._check import memory as check_memory
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
there, limit = check_memory.available()
print(there < 2 << 30, limit)
"""
    assert processes.output(code).split(maxsplit=1) == ["True", "ulimit -v leaves\n"]
    assert 0 < check_memory.available()[0] <= sys.maxsize


def test_loading_takes_a_small_multiple_of_the_file(tmp_path):
    models.EventModel("gru", 300, 2, seed=0).fit(*data_of("events"), epochs=0, verbose=False).save(tmp_path / "whole")
    size = sum(path.stat().st_size for path in (tmp_path / "whole").iterdir())

    def peak(folder, wrong):
        tracemalloc.start()
        try:
            models.EventModel.load(folder)
            assert not wrong
        except ValueError:
            assert wrong
        finally:
            found = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        return found

    assert peak(tmp_path / "whole", False) < 10 * size
    for k, (key, value) in enumerate(
        [("hidden_size", 350), ("num_layers", 3), ("hidden_size", 10**5), ("hidden_size", [300] * 50)]
    ):
        assert peak(edited(tmp_path / "whole", tmp_path / str(k), set_to(key, value)), True) < 20 * size, key


@pytest.mark.parametrize("words", [["--layers", "2147483648"], ["--hidden", "999999999"], ["--embedding", "9" * 21]])
def test_train_refuses_sizes_that_do_not_fit(words, tmp_path, capsys):
    (tmp_path / "text").write_text("to be or not to be, " * 200)
    assert cli.main(["train", "--data", str(tmp_path / "text"), "--quiet", "--out", str(tmp_path / "out"), *words]) == 1
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert "not enough memory: the " in said or "but it must be at most" in said
    assert not (tmp_path / "out").exists()
