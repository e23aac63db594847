"""Model files written before names inside the code changed still open, predict the same, and can be saved again."""

import json

import numpy as np
import pytest
from helpers import ROOT
from helpers.messages import naming

import gpunn
from gpunn.training import checkpoint

FOLDER = ROOT / "tests" / "files" / "earlier"
X = np.random.default_rng(0).normal(size=(60, 5))  # the training rows of the stored models
LABELS = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0.5)
EXPECTED = json.loads((FOLDER / "earlier.json").read_text(encoding="utf-8"))


def reopened(name, tmp_path):
    """The stored object, and the same object after it was saved again."""
    first = gpunn.load(FOLDER / f"{name}.safetensors")
    first.save(tmp_path / "again.safetensors")
    return first, gpunn.load(tmp_path / "again.safetensors")


def test_a_sequential_model(tmp_path):
    expected = EXPECTED["model2"]
    for net in reopened("model2", tmp_path):
        np.testing.assert_allclose(net.predict(np.array(expected["x"])), expected["predicted"], rtol=1e-5)
        assert type(net.optimizer) is gpunn.Momentum
        assert net.evaluate(X, LABELS) == pytest.approx(expected["evaluated"], rel=1e-5)


@pytest.mark.parametrize("name", ["classifier1", "regressor1"])
def test_an_estimator(tmp_path, name):
    pytest.importorskip("sklearn")
    x, expected = np.array(EXPECTED["model2"]["x"]), EXPECTED[name]
    for estimator in reopened(name, tmp_path):
        predict = estimator.predict_proba if name == "classifier1" else estimator.predict
        np.testing.assert_allclose(predict(x), expected["predicted"], rtol=1e-10)
        if name == "classifier1":
            assert estimator.loss_curve_ == expected["loss_curve"]


def test_a_single_network_of_an_earlier_command_is_trained_again(tmp_path):
    checkpoint.write(tmp_path / "m.safetensors", {}, {"kind": "table", "net": {}, "table": {}})
    with pytest.raises(gpunn.CheckpointError, match=naming("m.safetensors", "earlier version", "train")):
        gpunn.load(tmp_path / "m.safetensors")
