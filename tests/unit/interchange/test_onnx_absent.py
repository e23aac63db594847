"""Export without the package onnx."""

import sys

import pytest
from helpers.messages import naming

import gpunn


def test_error_names_the_extra_and_no_file_is_left(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    net = gpunn.Sequential([gpunn.Dense(2)], input_shape=3)
    with pytest.raises(ImportError, match=naming("export", '"gpunn[onnx]"')):
        net.export(tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())
