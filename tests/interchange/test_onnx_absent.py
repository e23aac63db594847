"""Without the library onnx."""

import sys

import pytest

import gpunn


def test_the_extra_is_named_and_no_file_left(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    net = gpunn.Sequential([gpunn.Dense(2)], input_shape=3)
    with pytest.raises(ImportError, match=r'export needs the library onnx: pip install "gpunn\[onnx\]"'):
        net.export(tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())
