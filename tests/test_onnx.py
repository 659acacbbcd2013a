"""ONNX nodes on fastrnn: ONNX's own tests, onnxruntime on random configurations, laws, and what is refused."""

import re
import unittest
import warnings

import numpy as np
import pytest
from onnx_cases import PEER, Case, peer, random_case

pytestmark = pytest.mark.onnxruntime

NODE_TESTS = r"^test_(lstm|gru|rnn|simple_rnn).*_cpu$"


def test_the_node_tests_of_onnx_pass():
    import onnx.backend.test

    import fastrnn.onnx as backend

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the cases of other operators overflow while they are made
        runner = onnx.backend.test.BackendTest(backend.Backend, __name__)
    cases = runner.test_cases["OnnxBackendNodeModelTest"]
    names = [name for name in dir(cases) if re.match(NODE_TESTS, name)]
    assert len(names) == 18
    result = unittest.TestResult()
    unittest.TestSuite(map(cases, names)).run(result)
    assert result.testsRun == 18 and not result.skipped
    assert result.wasSuccessful(), (result.failures + result.errors)[0][1]


@pytest.mark.parametrize("seed", range(240))
def test_a_random_node_agrees_with_onnxruntime(seed):
    import fastrnn.onnx as backend

    case = random_case(seed)
    model = case.model()
    for name, got, want in zip(case.outputs, backend.run_model(model, case.feeds), peer(model, case.feeds), strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want, **PEER, err_msg=f"{name} of {case}")
