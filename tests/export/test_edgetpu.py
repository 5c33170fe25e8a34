import os
import pathlib
import stat

import pytest

from export import models
from keras_mnv4 import export
from keras_mnv4.export import edgetpu

pytestmark = pytest.mark.tensorflow
GOLDEN_DIR = "MNV4_EDGETPU_GOLDEN"  # a folder of .tflite files that the real compiler maps wholly


def test_accepts_an_integer_convolution():
    report = export.check_edgetpu(models.convert(models.integer_model, (8, 8, 3)))
    assert report.ok
    assert "All 1 operators" in str(report)


@pytest.mark.parametrize(
    ("model", "arguments", "op", "reason"),
    [
        (models.convolution, {"is_integer": False}, "CONV_2D", "FLOAT32"),
        (models.float_island_model, {}, "ADD", "FLOAT32"),
        (models.integer_model, {"batch": 2}, "CONV_2D", "batch of one"),
        (models.hard_swish_model, {}, "HARD_SWISH", "no such operator"),
        (models.int4_model, {}, "CONV_2D", "INT4"),
    ],
    ids=["float", "float island", "batch of two", "hard-swish", "INT4 weights"],
)
def test_rejects_naming_operator_and_reason(model, arguments, op, reason):
    report = export.check_edgetpu(models.convert(model, (8, 8, 3), **arguments))
    assert not report.ok
    matching = [finding for finding in report.findings if finding.op == op and reason in finding.reason]
    assert matching, str(report)
    assert matching[0].tensor
    assert f"{op} (operator {matching[0].index}" in str(report)


def test_new_versions_are_rejected():
    report = export.check_edgetpu(models.convert(models.int4_model, (8, 8, 3)))
    assert "newer than the compiler's 3" in str(report)


@pytest.mark.skipif(GOLDEN_DIR not in os.environ, reason=f"set {GOLDEN_DIR} to files of google-coral/edgetpu test_data")
def test_accepts_what_the_real_compiler_accepts():
    files = sorted(pathlib.Path(os.environ[GOLDEN_DIR]).glob("*.tflite"))
    assert files
    for path in files:
        assert export.check_edgetpu(path).ok, f"{path.name}: {export.check_edgetpu(path)}"


@pytest.mark.parametrize(
    ("prints", "status", "complaint"),
    [
        ("Number of operations that will run on Edge TPU: 1\nNumber of operations that will run on CPU: 0", 0, None),
        ("Number of operations that will run on CPU: 2", 0, "leaves 2 operators on the CPU"),
        ("Internal compiler error. Aborting!", 1, "failed: Internal compiler error"),
    ],
)
def test_asks_the_compiler_where_it_is_installed(prints, status, complaint, tmp_path, monkeypatch):
    compiler = tmp_path / edgetpu.COMPILER
    compiler.write_text(f"#!/bin/sh\nprintf '{prints}'\nexit {status}\n")
    compiler.chmod(compiler.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    report = export.check_edgetpu(models.convert(models.integer_model, (8, 8, 3)))
    assert report.compiled
    assert report.ok == (complaint is None)
    assert complaint is None or complaint in str(report)


@pytest.mark.parametrize("content", [b"", b"not a TFLite file at all"])
def test_other_files_are_an_error(content, tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="Not a TFLite file"):
        export.check_edgetpu(path)
