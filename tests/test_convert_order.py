"""fastrnn convert of state_dicts: the order of the layers, the functions between them, and what is reported of both."""

import numpy as np
import pytest

import fastrnn
from fastrnn import Network
from fastrnn.convert import files as convert
from fastrnn.convert import state_dict

F = np.float32


def chain(module, x, between=None):
    """Compute the outputs of a ModuleDict used in the order of definition; between: {name: function}."""
    import torch

    for name, part in module.items():
        x = part(x)
        x = x[0] if isinstance(x, tuple) else x
        x = getattr(torch, (between or {}).get(name, "clone"))(x)
    return x.detach().numpy()


def saved(module, path):
    """Write a file with the state_dict of a module in the format of its suffix; "sorted.pt" is ordered by name."""
    import torch
    from safetensors.torch import save_file

    tensors = module.state_dict()
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(dict(sorted(tensors.items())) if path.name == "sorted.pt" else tensors, path)
    return path


def modules(**parts):
    import torch

    torch.manual_seed(0)
    return torch.nn.ModuleDict(
        {
            name: getattr(torch.nn, kind)(*sizes, **(options[0] if options else {}))
            for name, (kind, sizes, *options) in parts.items()
        }
    )


def agrees(directory, module, features=8, between=None):
    import torch

    x = torch.randn(7, 3, features)
    np.testing.assert_allclose(Network.load(directory)(x.numpy())[0], chain(module, x, between), atol=2e-5)


UNKNOWN = {  # orders that neither names nor sizes determine; they were read in the order of names
    "encoder, decoder": dict(encoder=("LSTM", (8, 8)), decoder=("LSTM", (8, 8))),
    "lstm, gru": dict(lstm=("LSTM", (8, 8)), gru=("GRU", (8, 8))),
    "Linear after Linear": dict(lstm=("LSTM", (8, 8)), wide=("Linear", (8, 8)), out=("Linear", (8, 8))),
    "Linear before rnn": dict(lin=("Linear", (8, 8)), gru=("GRU", (8, 8))),
    "forth and back": dict(up=("GRU", (8, 5)), down=("GRU", (5, 8))),
}


@pytest.mark.torch
@pytest.mark.parametrize("case", UNKNOWN)
@pytest.mark.parametrize("file", ["m.safetensors", "sorted.pt"])
def test_an_unknown_order_is_asked_for_and_used(tmp_path, run, case, file):
    module = modules(**UNKNOWN[case])
    path, names, between = saved(module, tmp_path / file), list(module), ["--between", "none"]
    status, out, err = run("convert", path, tmp_path / "net", *between)
    assert (
        (status, out) == (1, "")
        and "order in which the" in err
        and "Specify it with --order, for example --order" in err
        and all(n in err for n in names)
    )
    assert not (tmp_path / "net").exists()
    status, out, err = run("convert", path, tmp_path / "net", "--order", ",".join(names), *between)
    assert (status, err) == (0, "") and f"order of the layers: {', '.join(names)}; it was given with --order" in out
    assert "each layer alone agrees with torch's" in out and "the chain of them was NOT compared" in out
    agrees(tmp_path / "net", module)


@pytest.mark.torch
@pytest.mark.parametrize("prefix, ends", [("rnn", False), ("layers.", False), ("layers.", True)])
def test_numbers_in_names_sort_as_numbers(tmp_path, run, prefix, ends):
    """The order of names was rnn1, rnn10, rnn11, rnn2, …"""
    import torch

    parts = {f"{prefix}{k}".replace(".", "_"): ("GRU", (8, 8)) for k in range(11)} | (
        {"a_head": ("Linear", (8, 2))} if ends else {}
    )
    module = modules(**parts)
    tensors = {key.replace("layers_", "layers."): value for key, value in module.state_dict().items()}
    from safetensors.torch import save_file

    save_file(tensors, tmp_path / "m.safetensors")
    status, out, err = run("convert", tmp_path / "m.safetensors", tmp_path / "net")
    assert (status, err) == (0, "") and "it is that of the numbers in their names" in out
    agrees(tmp_path / "net", module)
    torch.save(dict(reversed(list(tensors.items()))), tmp_path / "m.pt")
    status, out, err = run("convert", tmp_path / "m.pt", tmp_path / "other")
    assert (status, err) == (0, "") and "numbers in their names" in out


@pytest.mark.torch
def test_an_order_determined_by_the_sizes_is_used_and_reported(tmp_path, run):
    module = modules(z=("LSTM", (8, 5)), a=("GRU", (5, 7)), m=("Linear", (7, 2)))
    status, out, err = run("convert", saved(module, tmp_path / "m.safetensors"), tmp_path / "net")
    assert (status, err) == (0, "") and "order of the layers: z, a, m; no other order fits their sizes" in out
    agrees(tmp_path / "net", module)


@pytest.mark.torch
def test_the_order_of_a_torch_file_is_reported_as_that_of_definition(tmp_path, run):
    module = modules(encoder=("LSTM", (8, 8)), decoder=("LSTM", (8, 8)))
    path = saved(module, tmp_path / "m.pt")
    status, out, err = run("convert", path, tmp_path / "net")
    assert (status, err) == (
        0,
        "",
    ) and "encoder, decoder; it is the order of the file, which is that of their definition" in out
    agrees(tmp_path / "net", module)
    status, out, err = run("convert", path, tmp_path / "other", "--order", "decoder, encoder")
    assert (status, err) == (0, "") and "decoder, encoder; it was given with --order" in out
    agrees(tmp_path / "other", {name: module[name] for name in ("decoder", "encoder")})


@pytest.mark.parametrize("order, words", [
    ("encoder", "leaves out decoder: it must name each of the 2 layers once"),
    ("encoder,decoder,fc", "names 'fc', but the layers are"),
    ("encoder,encoder,decoder", "names 'encoder' twice"),
    ("encoder:linear,decoder", "calls 'encoder' a 'linear', but it can only be: recurrent"),
])  # fmt: skip
def test_a_wrong_order_is_refused(order, words):
    net = Network({"encoder": fastrnn.LSTM(8, 8), "decoder": fastrnn.LSTM(8, 8)})
    with pytest.raises(ValueError, match=words):
        state_dict.to_network(net.state_dict(), order=order.split(","))


def test_an_order_that_does_not_fit_is_refused():
    net = Network({"a": fastrnn.LSTM(8, 5), "b": fastrnn.LSTM(5, 4)})
    with pytest.raises(ValueError, match="layer 'a' takes 8 features, but the layer before it gives 4 features"):
        state_dict.to_network(net.state_dict(), order=["b", "a"])


def test_the_kind_of_a_square_table_is_asked_for():
    """It always became an Embedding."""
    rng = np.random.default_rng(0)
    tensors = {"table.weight": rng.standard_normal((4, 4)).astype(F)} | {
        f"rnn.{k}": np.array(a) for k, a in fastrnn.GRU(4, 3).params.items()
    }
    with pytest.raises(
        ValueError,
        match=r"'table' has a weight without bias, so it can be an Embedding or a Linear: .*table:embedding,rnn",
    ):
        state_dict.to_network(tensors)
    net = state_dict.to_network(tensors, order=["table:linear", "rnn"], between="none")
    assert isinstance(net.layers["table"], fastrnn.Linear)
    assert isinstance(
        state_dict.to_network(tensors, order=["table:embedding", "rnn"]).layers["table"], fastrnn.Embedding
    )
    tall = {**tensors, "table.weight": rng.standard_normal((9, 4)).astype(F)}
    assert isinstance(state_dict.to_network(tall).layers["table"], fastrnn.Embedding)  # only an embedding fits
    with pytest.raises(ValueError, match="layer:embedding"):
        state_dict.to_network({"weight": rng.standard_normal((9, 4)).astype(F)})


def test_a_module_called_layer_does_not_replace_what_has_no_name():
    tensors = {name: np.array(a) for name, a in fastrnn.GRU(4, 3, seed=0).params.items()} | {
        "layer.weight": np.ones((2, 3), F),
        "layer.bias": np.ones(2, F),
    }
    assert list(state_dict.to_network(tensors).layers) == ["layer_", "layer"]


def test_many_layers_and_sizes_that_fit_nothing_are_answered_at_once():
    layer = fastrnn.GRU(2, 2)
    many = {
        f"{chr(97 + k % 26)}{'x' * (k // 26)}.{name}": np.array(a)
        for k in range(150)
        for name, a in layer.params.items()
    }
    with pytest.raises(ValueError, match="the order in which the 150 layers are used is ambiguous"):
        state_dict.read(many, kept=False)
    assert len(state_dict.to_network(many).layers) == 150
    odd = {
        f"{'abcdefghijklmnop'[k]}.{name}": np.array(a)
        for k in range(14)
        for name, a in fastrnn.GRU(2 + k % 2, 2 + (k + 1) % 3).params.items()
    }
    with pytest.raises(ValueError, match="do not form a chain in any order|is ambiguous"):
        state_dict.read(odd, kept=False)


# --- functions between layers ---------------------------------------------------


@pytest.mark.torch
@pytest.mark.parametrize("file", ["m.pt", "m.safetensors"])
def test_the_function_after_a_linear_is_asked_for(tmp_path, run, file):
    """A BiLSTM with a head of two Linears lost its ReLU, and the output claimed agreement with torch."""
    module = modules(lstm=("LSTM", (8, 6), {"bidirectional": True}), hidden=("Linear", (12, 5)), out=("Linear", (5, 3)))
    path = saved(module, tmp_path / file)
    status, out, err = run("convert", path, tmp_path / "net")
    assert (
        (status, out)
        == (
            1,
            "",
        )
        and "a state_dict does not contain the function between 'hidden', a Linear, "
        "and 'out': specify it with --between relu"
        in err
    )
    status, out, err = run("convert", path, tmp_path / "net", "--between", "relu")
    assert (status, err) == (0, "") and "relu after 'hidden', as --between says" in out
    agrees(tmp_path / "net", module, between={"hidden": "relu"})
    status, out, err = run("convert", path, tmp_path / "bent", "--between", "lstm=tanh,hidden=relu,out=sigmoid")
    assert (status, err) == (0, "")
    agrees(tmp_path / "bent", module, between={"lstm": "tanh", "hidden": "relu", "out": "sigmoid"})
    status, out, err = run("convert", path, tmp_path / "linear", "--between", "none")
    assert (status, err) == (0, "") and "between the layers: nothing. A state_dict does not contain activations" in out
    agrees(tmp_path / "linear", module)


@pytest.mark.parametrize("between, words", [
    ("gelu", "--between has 'gelu', but it must be none or one of tanh"),
    ("fc=relu", "--between names 'fc', but the layers are"),
    ("a=relu,a=tanh", "must be one function, or NAME=FUNCTION"), ("=relu", "must be one function"),
    ("b=relu", "the function between 'a', a Linear, and 'b'"),
])  # fmt: skip
def test_a_wrong_function_between_is_refused(between, words):
    net = Network({"a": fastrnn.Linear(4, 4), "b": fastrnn.Linear(4, 2)})
    with pytest.raises(ValueError, match=words):
        state_dict.to_network(net.state_dict(), between=convert._parsed_between(between))


def test_a_function_without_a_place_is_refused():
    with pytest.raises(
        ValueError, match="applies to a Linear before another layer, but there is none: use --between NAME=relu"
    ):
        state_dict.to_network(Network({"a": fastrnn.GRU(4, 4), "b": fastrnn.Linear(4, 2)}).state_dict(), between="relu")


def test_what_a_state_dict_cannot_hold_is_reported_when_one_is_written(tmp_path, run):
    Network(
        {
            "rnn": fastrnn.GRU(3, 4),
            "last": "last",
            "a": fastrnn.Linear(4, 3),
            "act": ("elu", 0.5),
            "b": fastrnn.Linear(3, 2),
        }
    ).save(tmp_path / "net")
    status, out, err = run("convert", tmp_path / "net", tmp_path / "net.safetensors")
    assert (status, err) == (0, "") and "not in a state_dict, and left out: 'last' (last), 'act' (elu)" in out


def test_a_safetensors_file_of_fastrnn_keeps_the_order(tmp_path, run):
    net = Network({"encoder": fastrnn.LSTM(8, 8, seed=0), "decoder": fastrnn.LSTM(8, 8, seed=1)})
    net.save(tmp_path / "net")
    assert run("convert", tmp_path / "net", tmp_path / "m.safetensors")[0] == 0
    status, out, err = run("convert", tmp_path / "m.safetensors", tmp_path / "again")
    assert (status, err) == (0, "") and "order of the layers: encoder, decoder" in out
    x = np.random.default_rng(0).standard_normal((7, 3, 8)).astype(F)
    np.testing.assert_array_equal(Network.load(tmp_path / "again")(x)[0], net(x)[0])


@pytest.mark.torch
def test_tied_weights_that_safetensors_left_out_are_there(tmp_path, run):
    """save_model writes one of two tied tensors and the name of the other; the embedding was lost."""
    from safetensors.torch import save_model

    module = modules(embedding=("Embedding", (9, 4)), rnn=("GRU", (4, 4)), decoder=("Linear", (4, 9)))
    module["decoder"].weight = module["embedding"].weight
    save_model(module, str(tmp_path / "m.safetensors"))
    status, out, err = run("convert", tmp_path / "m.safetensors", tmp_path / "net")
    assert (status, err) == (0, "") and "embedding.weight is decoder.weight, as the file says of tied weights" in out
    x = np.arange(9)[:, None]
    import torch

    np.testing.assert_allclose(Network.load(tmp_path / "net")(x)[0], chain(module, torch.from_numpy(x)), atol=2e-5)


@pytest.mark.torch
def test_an_element_type_that_numpy_has_not_is_not_called_damage(tmp_path):
    import torch
    from safetensors.torch import save_file

    save_file(
        {name: t.to(torch.bfloat16) for name, t in torch.nn.GRU(3, 4).state_dict().items()}, tmp_path / "m.safetensors"
    )
    with pytest.raises(
        ValueError,
        match="m.safetensors has tensors of BF16, but parameters must be float32 or float64: convert them first",
    ):
        convert.convert(tmp_path / "m.safetensors", tmp_path / "net")


def test_a_list_and_a_dict_say_the_same_as_text(tmp_path):
    net = Network({"b": fastrnn.Linear(4, 4, seed=0), "a": fastrnn.GRU(4, 4, seed=1)})
    net.save(tmp_path / "net")
    convert.convert(tmp_path / "net", tmp_path / "m.safetensors")
    for name, order, between in (("text", "a,b", "a=relu"), ("objects", ["a", "b"], {"a": "relu"})):
        said = convert.convert(tmp_path / "m.safetensors", tmp_path / name, order=order, between=between)
        assert "order of the layers: a, b; it was given" in said[1] and list(Network.load(tmp_path / name).steps) == [
            "a",
            "a.relu",
            "b",
        ]


# --- names that are not layers, and options that do not apply --------------------


def gru(**more):
    return {f"rnn.{name}": np.array(a) for name, a in fastrnn.GRU(3, 4).params.items()} | {
        k.replace("__", "."): a for k, a in more.items()
    }


ONE = np.ones(4, F)
FOREIGN = [
    (gru(bn__running_mean=ONE, bn__num_batches_tracked=np.array(3)),
     "bn.running_mean belongs to a BatchNorm, which is not one of .*: fold it into the Linear"),
    (gru(bn__num_batches_tracked=np.array(3)), "bn.num_batches_tracked belongs to a BatchNorm"),
    (gru(rnn__weight_hh_l0_g=np.ones((12, 1), F)),
     "rnn.weight_hh_l0_g belongs to weight_norm, .* call torch.nn.utils.remove_weight_norm"),
    (gru(fc__weight_g=np.ones((2, 1), F), fc__weight_v=np.ones((2, 4), F)), "fc.weight_g belongs to weight_norm"),
    (gru(fc__parametrizations__weight__original0=np.ones((2, 1), F)),
     r"belongs to a parametrization of fc.weight .*remove_parametrizations\(module, 'weight'\)"),
    (gru(fc__weight_orig=np.ones((2, 4), F), fc__weight_u=np.ones(2, F)), "belongs to spectral_norm"),
    (gru(fc__weight_mask=np.ones((2, 4), F)), "belongs to pruning"),
    (gru(at__in_proj_weight=np.ones((12, 4), F)), "belongs to a MultiheadAttention"),
    (gru(norm__weight=ONE, norm__bias=ONE),
     r"norm.weight \(4,\) does not belong to an Embedding.*: it looks like a LayerNorm or BatchNorm"),
    (gru(decoder__bias=ONE),
     r"decoder.bias \(4,\) does not belong to .*: decoder.weight is missing, maybe "
     r"because safetensors leaves out tied weights"),
    (gru(fc__weight=np.full((2, 4), np.nan, F)), "fc.weight has NaN or infinite values"),
    (gru(rnn__weight_ih=np.ones((12, 3), F)), "rnn.weight_ih and rnn.weight_ih_l0 cannot both be there"),
]  # fmt: skip


@pytest.mark.parametrize("tensors, words", FOREIGN, ids=[words[:30] for _, words in FOREIGN])
def test_unsupported_modules_are_named(tensors, words):
    with pytest.raises(ValueError, match=words):
        state_dict.to_network(tensors)


@pytest.mark.torch
@pytest.mark.parametrize("wrap, words", [
    ("old", "remove_weight_norm"), ("new", "remove_parametrizations"), ("batch", "belongs to a BatchNorm"),
    ("layer", "a LayerNorm"),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
def test_unsupported_torch_modules_are_named(wrap, words):
    import torch
    from torch.nn import utils

    module = modules(rnn=("LSTM", (4, 4)), out=("Linear", (4, 4)))
    if wrap == "old":
        utils.weight_norm(module["rnn"], "weight_hh_l0")
    elif wrap == "new":
        utils.parametrizations.weight_norm(module["out"])
    else:
        module["norm"] = {"batch": torch.nn.BatchNorm1d, "layer": torch.nn.LayerNorm}[wrap](4)
    with pytest.raises(ValueError, match=words):
        state_dict.to_network({name: t.numpy() for name, t in module.state_dict().items()})


@pytest.mark.parametrize("source, option, words", [
    ("net", ["--order", "a,b"], "--order a,b does not apply to a directory of fastrnn"),
    ("m.safetensors", ["--key", "model"], "--key model does not apply"),
    ("m.safetensors", ["--nonlinearity", "relu"],
     "--nonlinearity relu does not apply to a state_dict without vanilla layers"),
    ("m.safetensors", ["--config", "x.json"], "--config x.json does not apply to state_dicts"),
])  # fmt: skip
def test_an_option_that_would_not_count_is_refused(tmp_path, run, source, option, words):
    Network({"rnn": fastrnn.GRU(3, 4)}).save(tmp_path / "net")
    assert run("convert", tmp_path / "net", tmp_path / "m.safetensors")[0] == 0
    status, _, err = run("convert", tmp_path / source, tmp_path / "new", *option)
    assert status == 1 and words in err and not (tmp_path / "new").exists()
