"""Random chains of torch modules: convert reads them correctly, or asks for the order of their layers."""

import fuzz
import numpy as np
import pytest
from test_convert_order import chain

from fastrnn import Network
from fastrnn.convert import files as convert

F = np.float32

WORDS = ("encoder", "decoder", "lstm", "gru", "fc", "head", "a", "z", "out", "rnn", "lin", "pre")
FAMILIES = ("rnn{}", "layers.{}", "block.{}.rnn", "h{}o", "stage{}.block.fc")


def names_drawn(rng, count):
    """Return different names; those that differ only in a number have increasing numbers."""
    words, last, found = list(rng.permutation(WORDS)), dict.fromkeys(FAMILIES, int(rng.integers(10))), []
    families = [str(f) for f in rng.permutation(FAMILIES)[:2]]
    for _ in range(count):
        family = str(rng.choice(families))
        last[family] += int(rng.integers(1, 5))
        found.append(str(words.pop()) if rng.random() < 0.4 else family.format(last[family]))
    return found


def drawn(seed):
    """Return a chain of torch modules under random names with increasing numbers, and the functions in it."""
    import torch

    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    count = int(rng.integers(1, 6))
    names = names_drawn(rng, count)
    first = features = int(rng.integers(3, 6))
    module, between = {}, {}
    for k, name in enumerate(names):
        kind, gives = (
            str(rng.choice(["RNN", "GRU", "LSTM", "Linear", "Embedding" if k == 0 else "LSTM"])),
            int(rng.integers(3, 6)),
        )
        if kind == "Embedding":
            module[name] = torch.nn.Embedding(6, gives)  # six rows, a size that no layer has
        elif kind == "Linear":
            module[name] = torch.nn.Linear(features, gives, bias=k == 0 or rng.random() < 0.8)
            if k < count - 1:
                between[name] = str(rng.choice(["relu", "tanh", "sigmoid", "none"]))
        else:
            module[name] = getattr(torch.nn, kind)(features, gives, int(rng.integers(1, 3)), bias=bool(rng.integers(2)))
        features = gives
    ids = isinstance(module[names[0]], torch.nn.Embedding)
    x = rng.integers(0, 6, (5, 3)) if ids else rng.standard_normal((5, 3, first)).astype(F)
    return module, between, x


@pytest.mark.torch
@pytest.mark.fuzz
def test_random_chains_are_read_correctly_or_their_order_is_asked_for(tmp_path):
    for seed in fuzz.seeds("convert: chains", 40):
        (tmp_path / str(seed)).mkdir()
        with fuzz.named(seed):
            read_or_ask(seed, tmp_path / str(seed))


def read_or_ask(seed, folder):
    import torch
    from safetensors.torch import save_file

    module, between, x = drawn(seed)
    tensors = {f"{name}.{key}": t for name, part in module.items() for key, t in part.state_dict().items()}
    save_file(tensors, folder / "m.safetensors")
    torch.save(tensors, folder / "m.pt")
    torch.save(dict(sorted(tensors.items())), folder / "sorted.pt")
    known = {name: function for name, function in between.items() if function != "none"}
    want, text = chain(module, torch.from_numpy(x), known), ",".join(f"{n}={f}" for n, f in between.items()) or None
    first, *rest = module
    kind = (
        ""
        if len(module[first].state_dict()) > 1
        else ":embedding"
        if isinstance(module[first], torch.nn.Embedding)
        else ":linear"
    )
    order = ",".join([first + kind, *rest])
    for file in ("m.safetensors", "m.pt", "sorted.pt"):
        for given in (None, order):
            try:
                said = convert.convert(
                    folder / file, folder / f"{given is None}-{file[:-3]}-net", order=given, between=text
                )
            except ValueError as error:
                assert given is None and "--order" in str(error), f"{file}: {error}"
                assert "m.pt" != file or "not known" in str(error), str(error)
                continue
            assert "the chain of them was NOT compared" in said[-2]
            net = Network.load(folder / f"{given is None}-{file[:-3]}-net")
            np.testing.assert_allclose(net(x)[0], want, atol=2e-5, err_msg=f"{file}, --order {given}: {said}")
