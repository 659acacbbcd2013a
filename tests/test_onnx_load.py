"""ONNX models as fastrnn networks: our own exports, torch's, and what is refused."""

import io
import warnings

import numpy as np
import pytest
from test_onnx_export import NETWORKS

import fastrnn
from fastrnn import GRU, LSTM, RNN

pytestmark = pytest.mark.onnxruntime

PLAIN = [name for name in NETWORKS if name not in ("lstm, projected", "stack")]


@pytest.mark.parametrize("name", PLAIN)
def test_what_was_exported_is_loaded_and_gives_the_same_numbers(name):
    import fastrnn.onnx

    net = NETWORKS[name]()
    loaded = fastrnn.onnx.load(fastrnn.onnx.export(net))
    assert (type(loaded), loaded.num_parameters, loaded.batch_first) == (type(net), net.num_parameters, net.batch_first)
    x = np.random.default_rng(0).standard_normal((5, 4, 3)).astype("float32")
    np.testing.assert_allclose(loaded(x)[0], net(x)[0], rtol=1e-6, atol=1e-6)


@pytest.mark.torch
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_what_torch_exports_is_loaded_and_runs(kind, num_layers, bidirectional):
    import torch

    import fastrnn.onnx

    torch.manual_seed(0)
    module, x, file = getattr(torch.nn, kind)(3, 4, num_layers, bidirectional=bidirectional), torch.randn(5, 2, 3), io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this exporter is the old one
        torch.onnx.export(module, (x,), file, dynamo=False)
    with torch.no_grad():
        want = module(x)[0].numpy()
    net = fastrnn.onnx.load(file.getvalue())
    assert (net.kind, net.num_layers, net.bidirectional) == (kind, num_layers, bidirectional)
    np.testing.assert_allclose(net(x.numpy())[0], want, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(fastrnn.onnx.run_model(file.getvalue(), x.numpy())[0], want, rtol=1e-5, atol=1e-5)


def test_a_tensor_that_nothing_uses_is_named():
    from onnx import numpy_helper

    import fastrnn.onnx

    model = fastrnn.onnx.export(GRU(3, 4))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(3, "float32"), "left_over"))
    with pytest.raises(ValueError, match="tensors that nothing uses: 'left_over'"):
        fastrnn.onnx.load(model)


def test_a_tensor_that_is_missing_is_named():
    import fastrnn.onnx

    model = fastrnn.onnx.export(GRU(3, 4))
    del model.graph.initializer[0]
    with pytest.raises(ValueError, match="W_0"):
        fastrnn.onnx.load(model)


@pytest.mark.parametrize("net, words", [
    (lambda: LSTM(3, 6, proj_size=2), "more than a recurrent stack: it has MatMul"),
    (lambda: fastrnn.Stacked([GRU(3, 4), RNN(4, 4)], residual=True), "more than a recurrent stack: it has Add"),
])  # fmt: skip
def test_what_is_more_than_a_stack_is_refused_by_name(net, words):
    import fastrnn.onnx

    with pytest.raises(NotImplementedError, match=words):
        fastrnn.onnx.load(fastrnn.onnx.export(net()))
