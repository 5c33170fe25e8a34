import pathlib

import keras
import numpy as np
import onnxruntime
import pytest
from conftest import fit_statistics
from conftest import randomize_statistics
from conftest import tiny_network

from keras_mnv4 import export
from keras_mnv4 import qat
from keras_mnv4.applications import CHECKPOINTS
from keras_mnv4.applications import MobileNetV4ConvLarge
from keras_mnv4.applications import MobileNetV4ConvMedium
from keras_mnv4.applications import MobileNetV4ConvSmall
from keras_mnv4.export import litert
from keras_mnv4.export import metadata
from keras_mnv4.export import runtime
from keras_mnv4.export import tflite_file
from keras_mnv4.export.verify import MAX_ERROR

pytestmark = pytest.mark.tensorflow
EIGHT_BITS = qat.LastValueQuantizer(8, per_axis=True, symmetric=True, narrow_range=True)


def tiny(**arguments):
    return randomize_statistics(tiny_network(**arguments))


@pytest.fixture
def photos(real_photos):
    return real_photos(16, 32).astype("float32")


@pytest.fixture
def quantized(photos):
    model = qat.quantize_model(tiny())
    qat.calibrate(model, photos)
    return model


@pytest.mark.no_cover
@pytest.mark.parametrize(
    ("build", "padding"),
    [
        (MobileNetV4ConvSmall, "same"),
        pytest.param(MobileNetV4ConvMedium, "same", marks=pytest.mark.slow),
        pytest.param(MobileNetV4ConvSmall, "symmetric", marks=pytest.mark.slow),
        pytest.param(MobileNetV4ConvLarge, "same", marks=pytest.mark.slow),
    ],
)
def test_int8_outputs_are_the_fake_quantised_models(build, padding, real_photos, tmp_path):
    """64 real photos, random statistics: 99.9 % of the logits within one step, and the Edge TPU takes the file."""
    model = build(weights=None, input_shape=(224, 224, 3), classifier_activation=None, padding=padding)
    photos = real_photos(64, 224).astype("float32")
    model = qat.quantize_model(randomize_statistics(model))
    qat.calibrate(model, photos[::4], batch_size=16)
    path = tmp_path / "model.tflite"
    report = export.to_litert(model, path, target="edgetpu", samples=photos)
    assert report.edgetpu.ok
    assert report.agreement.samples == 64
    assert report.agreement.within_one_step >= 0.999, report.agreement
    assert export.check_edgetpu(path).ok
    kinds = {operator.kind for operator in tflite_file.read_tflite(path).operators}
    assert kinds - {"PAD"} == {"CONV_2D", "DEPTHWISE_CONV_2D", "ADD", "MEAN", "RESHAPE"}
    assert ("PAD" in kinds) == (padding == "symmetric")


@pytest.mark.no_cover
@pytest.mark.parametrize("padding", ["same", pytest.param("symmetric", marks=pytest.mark.slow)])
def test_every_part_is_exact_in_a_network_that_tells_photos_apart(padding, real_photos, tmp_path):
    """There the roundings of a hundred layers add up to many steps at the end; part by part none is above one."""
    model = MobileNetV4ConvSmall(
        weights=None, input_shape=(96, 96, 3), classifier_activation=None, padding=padding, classes=50
    )
    photos = real_photos(32, 96).astype("float32")
    model = qat.quantize_model(fit_statistics(randomize_statistics(model), photos))
    qat.calibrate(model, photos)
    assert model.predict(photos, verbose=0).std(0).mean() > 0.3
    report = export.to_litert(model, tmp_path / "model.tflite", samples=photos)
    assert len(report.parts) == 58  # 47 convolutions, 10 sums, 1 mean
    assert min(part.within_one_step for part in report.parts) == 1.0
    assert min(part.exact for part in report.parts if part.op != "MEAN") > 0.99


def test_a_last_map_of_one_pixel_needs_no_mean(real_photos, tmp_path):
    """The converter drops the mean; a quantiser behind it, of a range of its own, would spoil the next layer's bias."""
    model = MobileNetV4ConvSmall(weights=None, input_shape=(32, 32, 3), classes=4, alpha=0.35)
    photos = real_photos(16, 32).astype("float32")
    model = qat.quantize_model(fit_statistics(randomize_statistics(model), photos))
    qat.calibrate(model, photos)
    assert "avg_pool_quantizer" not in [layer.name for layer in model.layers]
    report = export.to_litert(model, tmp_path / "model.tflite", samples=photos)
    assert "MEAN" not in [part.op for part in report.parts]


def test_a_part_that_differs_is_named(quantized, photos, tmp_path, monkeypatch):
    real_convert = litert._convert

    def convert_with_a_wrong_bias(model, target):
        norm = quantized.get_layer("block_2").chain[1].norm
        right = norm.beta.numpy()
        norm.beta.assign(right + 0.3)
        content = real_convert(model, target)
        norm.beta.assign(right)
        return content

    monkeypatch.setattr(litert, "_convert", convert_with_a_wrong_bias)
    with pytest.raises(export.ExportError, match=r"block_2/expand \(CONV_2D") as caught:
        export.to_litert(quantized, tmp_path / "m.tflite", samples=photos)
    assert str(caught.value).count("block") == 1
    assert not list(tmp_path.iterdir())


def test_files_take_the_bytes_of_pictures(quantized, photos, tmp_path):
    """int8 input is the byte less 128, uint8 input the byte: nothing for a client to scale."""
    export.to_litert(quantized, tmp_path / "e.tflite", samples=photos)
    export.to_litert(quantized, tmp_path / "a.tflite", target="app", class_names=["x", "y", "z"], samples=photos)
    edge, app = (export.LiteRTModel(tmp_path / name) for name in ("e.tflite", "a.tflite"))
    assert (edge.input["dtype"], edge.input["quantization"]) == (np.int8, (1 / 128, 0))
    assert (app.input["dtype"], app.input["quantization"]) == (np.uint8, (1 / 128, 128))
    assert edge.outputs[0]["dtype"] == np.int8
    assert edge.outputs[0]["quantization"] == (1 / 256, -128)
    ramp = np.arange(256).repeat(12).reshape(1, 32, 32, 3)
    np.testing.assert_array_equal(edge.quantize(ramp), (ramp - 128).astype("int8"))
    np.testing.assert_array_equal(app.quantize(ramp), ramp.astype("uint8"))
    np.testing.assert_array_equal(edge.quantize((ramp - 128).astype("int8")), (ramp - 128).astype("int8"))  # its codes
    np.testing.assert_array_equal(edge.quantize((ramp / 128 - 1).astype("float32")), (ramp - 128).astype("int8"))
    for wrong, message in (
        (ramp - 128, "from 0 to 255. Received: int64 from -128 to 127"),
        (ramp + 1, "from 0 to 255. Received: int64 from 1 to 256"),
        (ramp[:0], r"one or more of shape \(32, 32, 3\), .*\(0, 32, 32, 3\)"),
        (ramp[0], r"Received: \(32, 32, 3\)"),
    ):
        for file in (edge, app):
            with pytest.raises(ValueError, match=message):
                file.predict(wrong)
    pictures = photos.astype("uint8")
    np.testing.assert_array_equal(app.predict(pictures), edge.predict(pictures))
    expected = quantized.predict(photos, verbose=0)
    assert np.abs(edge.predict(pictures) - expected).max() <= 2 / 256


def test_float_target(photos, tmp_path):
    model = tiny()
    report = export.to_litert(model, tmp_path / "f.tflite", target="float", samples=photos)
    assert report.agreement.top1 == 1.0
    outputs = export.LiteRTModel(tmp_path / "f.tflite").predict(photos)
    np.testing.assert_allclose(outputs, model.predict(photos, verbose=0), atol=1e-5)


def test_a_float_island_is_an_error_that_names_the_layer(photos, tmp_path):
    policy = qat.Policy(
        (qat.Rule(r"block_3/add"), *qat.get_policy("w8a8").rules),
    )
    model = qat.quantize_model(tiny(), policy)
    qat.calibrate(model, photos)
    with pytest.raises(export.ExportError, match=r"block_3/add \(ADD\)"):
        export.to_litert(model, tmp_path / "m.tflite", samples=photos)
    assert not list(tmp_path.iterdir())


def test_an_operator_that_the_edge_tpu_lacks_is_an_error(photos, tmp_path):
    model = qat.quantize_model(tiny(activation="gelu"))
    qat.calibrate(model, photos)
    with pytest.raises(export.ExportError, match="GELU"):
        export.to_litert(model, tmp_path / "m.tflite", samples=photos)
    assert not list(tmp_path.iterdir())


def test_outputs_that_differ_are_an_error(quantized, photos, tmp_path, monkeypatch):
    right = runtime.LiteRTModel.predict
    monkeypatch.setattr(runtime.LiteRTModel, "predict", lambda self, inputs: right(self, inputs)[:, ::-1])
    with pytest.raises(export.ExportError, match="not the Keras model's"):
        export.to_litert(quantized, tmp_path / "m.tflite", samples=photos)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_export_leaves_nothing(error, quantized, photos, tmp_path, monkeypatch):
    def interrupt(self, content):
        with self.open("wb") as file:
            file.write(content[:100])
        raise error

    monkeypatch.setattr(pathlib.Path, "write_bytes", interrupt)
    with pytest.raises(error):
        export.to_litert(quantized, tmp_path / "m.tflite", samples=photos)
    assert not list(tmp_path.iterdir())


def test_an_existing_file_is_kept_unless_told_otherwise(quantized, photos, tmp_path):
    path = tmp_path / "m.tflite"
    path.write_text("mine")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        export.to_litert(quantized, path, samples=photos)
    assert path.read_text() == "mine"
    export.to_litert(quantized, path, samples=photos, overwrite=True)
    assert export.check_edgetpu(path).ok


def test_paths_that_cannot_be_written_are_errors_at_once(quantized, tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        export.to_litert(quantized, tmp_path / "no" / "m.tflite")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        export.to_litert(quantized, tmp_path)
    with pytest.raises(PermissionError, match="cannot be written to"):
        export.to_litert(quantized, pathlib.Path("/proc/m.tflite"))


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (lambda: tiny(), {"target": "phone"}, "`target`"),
        (lambda: tiny(), {"target": "edgetpu"}, "quantize_model"),
        (lambda: qat.quantize_model(tiny()), {"target": "float"}, "float model"),
        (lambda: qat.quantize_model(tiny()), {"target": "app"}, "Received: none"),
        (lambda: qat.quantize_model(tiny()), {"target": "app", "class_names": ["a"]}, "Received: 1"),
        (lambda: qat.quantize_model(tiny()), {"target": "app", "class_names": ["a", "b", ""]}, "`class_names`"),
        (lambda: tiny(), {"target": "float", "class_names": ["a"]}, "Received: 1"),
        (
            lambda: tiny(include_preprocessing=False),
            {"target": "float", "class_names": ["a", "b", "c"]},
            "include_preprocessing",
        ),
        (lambda: tiny(input_shape=(None, None, 3)), {"target": "float"}, "fixed size"),
        (lambda: tiny(), {"target": "float", "samples": np.ones((2, 16, 32, 3))}, r"\(count, 32, 32, 3\)"),
        (lambda: tiny(), {"target": "float", "samples": np.ones((32, 32, 3))}, r"shape \(32, 32, 3\)"),
        (lambda: tiny(), {"target": "float", "samples": np.ones((0, 32, 32, 3))}, "one or more"),
        (lambda: tiny(), {"target": "float", "samples": "photos"}, "numbers of shape"),
        (
            lambda: qat.quantize_model(tiny(include_preprocessing=False)),
            {"target": "app", "class_names": ["a", "b", "c"]},
            "include_preprocessing",
        ),
    ],
)
def test_wrong_arguments_are_named(make, arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        export.to_litert(make(), tmp_path / "m.tflite", **arguments)
    assert not list(tmp_path.iterdir())


def colours(scale, middle=lambda x: x):
    """A classifier of three classes that scales pictures by a function, with another function behind."""
    inputs = keras.Input((8, 8, 3))
    x = middle(keras.layers.Conv2D(4, 3)(scale(inputs)))
    return keras.Model(inputs, keras.layers.Dense(3, name="predictions")(keras.layers.Flatten()(x)))


def hard_sigmoid(x):
    return keras.layers.ReLU(6.0)(keras.layers.Rescaling(1.0, 3.0)(x)) / 6.0


@pytest.mark.parametrize("target", ["app", "float"])
def test_a_scaling_in_the_middle_is_none_of_bytes(target, tmp_path):
    model = colours(keras.layers.Identity(), hard_sigmoid)
    model = qat.quantize_model(model, calibration_data=np.ones((2, 8, 8, 3))) if target == "app" else model
    with pytest.raises(ValueError, match="A file with labels takes bytes, so the model must scale them itself"):
        export.to_litert(model, tmp_path / "m.tflite", target, class_names=["a", "b", "c"])


@pytest.mark.parametrize("target", ["app", "float"])
@pytest.mark.parametrize(
    ("scale", "mean_and_deviation"),
    [
        (keras.applications.mobilenet_v2.preprocess_input, (128, 127.5)),
        (lambda x: keras.layers.Rescaling(1 / 255)(keras.layers.Identity()(x)), (0, 1)),
    ],
    ids=["operations", "behind a layer"],
)
def test_labelled_files_of_models_that_scale_bytes_in_other_ways(
    scale, mean_and_deviation, target, photos, tmp_path, monkeypatch
):
    written, add = [], metadata.add_classifier_metadata
    monkeypatch.setattr(metadata, "add_classifier_metadata", lambda *all: (written.append(all[3:]), add(*all))[1])
    photos = photos[:, :8, :8]
    model = colours(scale)
    model = qat.quantize_model(model, calibration_data=photos) if target == "app" else model
    export.to_litert(model, tmp_path / "m.tflite", target, samples=photos, class_names=["a", "b", "c"])
    assert written == [pytest.approx(mean_and_deviation if target == "app" else (0, 1))]


def test_a_sequential_float_model_has_labels(photos, tmp_path):
    stack = [keras.layers.Rescaling(1 / 255), keras.layers.Flatten(), keras.layers.Dense(3, "softmax")]
    model = keras.Sequential([keras.Input((8, 8, 3)), *stack])
    export.to_litert(model, tmp_path / "m.tflite", "float", samples=photos[:, :8, :8], class_names=["a", "b", "c"])
    assert metadata.read_class_names((tmp_path / "m.tflite").read_bytes()) == ["a", "b", "c"]


def test_floats_that_the_input_cannot_hold_are_warned_of(photos, tmp_path):
    model = qat.quantize_model(colours(keras.layers.Rescaling(1 / 127.5, -1)), calibration_data=photos[:, :8, :8])
    shown = photos[:, :8, :8]
    export.to_litert(model, tmp_path / "m.tflite", samples=shown)
    file = export.LiteRTModel(tmp_path / "m.tflite")
    for predict in (file.predict, file.predict_codes):
        with pytest.warns(
            UserWarning, match=r"floats from \d+ to \d+, and the file's input holds -1 to 0.996: .*uint8"
        ):
            predict(shown)
    scaled = file.predict((shown - 128) / 127.5)
    np.testing.assert_array_equal(scaled, file.predict(shown.astype("uint8")))


def bare_behind(checkpoint):
    """A tiny network behind the preprocessing of a published checkpoint."""
    preprocessing = next(each.preprocessing for each in CHECKPOINTS if each.tag == checkpoint)
    inputs = keras.Input((32, 32, 3))
    return tiny(include_preprocessing=False, input_tensor=preprocessing.make_layer(name="preprocessing")(inputs))


def test_a_mean_of_each_colour_is_one_operator(photos, tmp_path):
    """ImageNet's mean and deviation: the file takes bytes and scales colours itself."""
    model = bare_behind("e2400_r224_in1k")
    quantized = qat.quantize_model(model)
    qat.calibrate(quantized, photos)
    report = export.to_litert(quantized, tmp_path / "m.tflite", samples=photos)
    assert report.parts[0].path == "preprocessing"
    assert report.parts[0].op == "DEPTHWISE_CONV_2D"
    assert report.parts[0].within_one_step == 1.0
    file = export.LiteRTModel(tmp_path / "m.tflite")
    assert file.input["quantization"] == (1.0, -128)
    assert np.abs(file.predict(photos.astype("uint8")) - model.predict(photos, verbose=0)).max() < 0.05
    export.to_litert(quantized, tmp_path / "app.tflite", "app", samples=photos, class_names=["a", "b", "c"])
    app = export.LiteRTModel(tmp_path / "app.tflite")
    assert app.input["quantization"] == (1.0, 0)
    np.testing.assert_array_equal(app.predict(photos.astype("uint8")), file.predict(photos.astype("uint8")))


@pytest.mark.parametrize("target", ["edgetpu", "app"])
@pytest.mark.parametrize(("scale", "offset"), [(-1 / 255, 1.0), (1 / 255, 0.5), (1 / 255, -1.5)])
def test_scalings_that_no_scale_of_an_input_can_say_are_in_the_file(scale, offset, target, photos, tmp_path):
    """Negatives, and ranges without zero: the file still takes the picture's bytes."""
    scaled = keras.layers.Rescaling(scale, offset)(keras.Input((32, 32, 3)))
    model = tiny(include_preprocessing=False, input_tensor=scaled)
    quantized = qat.quantize_model(model)
    qat.calibrate(quantized, photos)
    names = ["a", "b", "c"] if target == "app" else None
    export.to_litert(quantized, tmp_path / "m.tflite", target, samples=photos, class_names=names)
    found = export.LiteRTModel(tmp_path / "m.tflite").predict(photos.astype("uint8"))
    assert np.abs(found - quantized.predict(photos, verbose=0)).max() < 2.5 / 256  # two codes
    assert np.abs(found - model.predict(photos, verbose=0)).max() < 0.05


def test_a_mean_of_half_a_byte_becomes_the_byte_above(photos, tmp_path):
    model = bare_behind("e3600_r256_in1k")
    assert model.get_layer("preprocessing").offset == -1.0
    quantized = qat.quantize_model(model)
    qat.calibrate(quantized, photos)
    export.to_litert(quantized, tmp_path / "m.tflite", samples=photos)
    file = export.LiteRTModel(tmp_path / "m.tflite")
    assert file.input["quantization"] == (pytest.approx(1 / 127.5), 0)
    assert np.abs(file.predict(photos.astype("uint8")) - model.predict(photos, verbose=0)).max() < 0.05


def test_half_precision_is_refused(tmp_path):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = tiny()
    finally:
        keras.config.set_dtype_policy("float32")
    model.save(tmp_path / "m.keras")
    for each in (model, keras.models.load_model(tmp_path / "m.keras"), keras.models.clone_model(model)):
        with pytest.raises(ValueError, match="build the model in float32"):
            export.to_litert(each, tmp_path / "m.tflite", target="float")


def test_a_kernel_that_stays_in_float_is_refused(tmp_path):
    rules = (qat.Rule("block_1/expand", outputs=qat.MovingAverageQuantizer(8)), *qat.get_policy("w8a8").rules)
    quantized = qat.quantize_model(tiny(), qat.Policy(rules))
    with pytest.raises(ValueError, match=r"leaves the kernel of `.*block_1.*` in float"):
        export.to_litert(quantized, tmp_path / "m.tflite")


def test_outputs_that_are_no_numbers_are_refused(tmp_path):
    model = tiny()
    model.layers[-1].set_weights([np.full_like(each, np.nan) for each in model.layers[-1].get_weights()])
    with pytest.raises(export.ExportError, match="not the Keras model's"):
        export.to_litert(model, tmp_path / "m.tflite", target="float")
    with pytest.raises(export.ExportError, match="differ by up to nan"):
        export.to_onnx(model, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("write", ["to_litert", "to_onnx"])
def test_a_float_file_of_other_weights_is_refused(write, photos, tmp_path, monkeypatch):
    """Weights that are off by a tenth of their spread, which the roundings of an integer file might add up to."""
    model = tiny()
    randomize_statistics(model)
    other = keras.models.clone_model(model)
    random = np.random.default_rng(0)
    other.set_weights([each + 0.1 * each.std() * random.normal(size=each.shape) for each in model.get_weights()])
    expected = model.predict(photos, verbose=0)
    assert np.std(other.predict(photos, verbose=0) - expected) < MAX_ERROR * np.std(expected)
    convert = litert._convert
    monkeypatch.setattr(litert, "_convert", lambda _, target: convert(other, target))
    monkeypatch.setattr(model, "export", other.export)
    how = {"target": "float"} if write == "to_litert" else {}
    with pytest.raises(export.ExportError, match="differ by up to"):
        getattr(export, write)(model, tmp_path / "file", samples=photos, **how)
    assert not list(tmp_path.iterdir())


def test_models_of_two_inputs_are_refused(tmp_path):
    pictures = [keras.Input((32, 32, 3)) for _ in range(2)]
    model = keras.Model(pictures, keras.layers.Add()(pictures))
    for write, name in ((export.to_litert, "m.tflite"), (export.to_onnx, "m.onnx")):
        with pytest.raises(ValueError, match=r"must have one input\. Received: one of 2"):
            write(model, tmp_path / name)


def detector():
    """Three outputs whose names, depths and shapes are in different orders; two have the same shape."""
    body = tiny(include_top=False)
    maps = [layer.output for layer in body.layers if layer.name.startswith("block_")]
    boxes = keras.layers.Conv2D(4, 1, name="boxes")(maps[-1])
    scores = keras.layers.Conv2D(4, 1, activation="sigmoid", name="scores")(maps[-1])
    best = keras.layers.Dense(3, name="best")(keras.layers.GlobalMaxPooling2D()(maps[0]))
    return keras.Model(body.input, {"scores": scores, "boxes": [boxes, best]})


@pytest.mark.parametrize("target", ["cpu", "edgetpu", "float", "onnx", "integer onnx"])
def test_files_have_all_outputs_in_the_models_order(target, photos, tmp_path):
    model = detector()
    if target not in ("float", "onnx"):
        model = qat.quantize_model(model, calibration_data=photos)
    if "onnx" in target:
        report = export.to_onnx(model, tmp_path / "m.onnx", samples=photos)
        outputs = export.run_onnx(tmp_path / "m.onnx", photos, batch_size=5)
        session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
        assert [output.name for output in session.get_outputs()] == ["boxes", "best", "scores"]
    else:
        report = export.to_litert(model, tmp_path / "m.tflite", target, samples=photos)
        outputs = export.LiteRTModel(tmp_path / "m.tflite").predict(photos.astype("uint8"))
    expected = model.predict(photos, verbose=0)
    expected = [*expected["boxes"], expected["scores"]]
    assert [output.shape for output in outputs] == [(16, *output.shape[1:]) for output in model.outputs]
    for found, wanted in zip(outputs, expected, strict=True):
        assert np.abs(found - wanted).mean() < 0.02 * np.ptp(wanted)
    assert list(report.agreements) == ["boxes", "best", "scores"]
    assert report.agreement == min(report.agreements.values(), key=lambda each: each.within_one_step)


def test_a_tensor_that_is_given_twice_is_refused(tmp_path):
    model = tiny()
    model = keras.Model(model.input, [model.output, model.output])
    with pytest.raises(ValueError, match="gives the same tensor twice"):
        export.to_litert(model, tmp_path / "m.tflite", target="float")


def test_a_float_output_is_named_by_its_layer(photos, tmp_path):
    policy = qat.Policy((qat.Rule("boxes", weights=EIGHT_BITS), *qat.get_policy("w8a8").rules))
    model = qat.quantize_model(detector(), policy, photos)
    with pytest.raises(export.ExportError, match=r"boxes \(CONV_2D\)"):
        export.to_litert(model, tmp_path / "m.tflite", "cpu", samples=photos)


def test_a_file_with_labels_has_one_output(photos, tmp_path):
    model = qat.quantize_model(detector(), calibration_data=photos)
    with pytest.raises(ValueError, match=r"classifier of one output\. Received: a model of 3 outputs"):
        export.to_litert(model, tmp_path / "m.tflite", target="app", class_names=["a", "b", "c"])


def test_models_without_preprocessing_take_scaled_pictures(photos, tmp_path):
    scaled = photos / 128 - 1
    model = qat.quantize_model(tiny(include_preprocessing=False))
    qat.calibrate(model, scaled)
    report = export.to_litert(model, tmp_path / "m.tflite", samples=scaled)
    assert report.agreement.within_one_step > 0.95
    export.to_litert(model, tmp_path / "m.tflite", overwrite=True)  # without a warning of samples that are bytes


def test_metadata_is_deterministic_and_holds_the_labels(quantized, photos, tmp_path):
    labels = ["Katze", "naïve dog", "第三"]
    contents = []
    for name in ("a.tflite", "b.tflite"):
        export.to_litert(quantized, tmp_path / name, target="app", class_names=labels, samples=photos)
        contents.append((tmp_path / name).read_bytes())
    assert contents[0] == contents[1]
    assert metadata.read_class_names(contents[0]) == labels
    export.to_litert(quantized, tmp_path / "c.tflite", samples=photos)
    assert metadata.read_class_names((tmp_path / "c.tflite").read_bytes()) == []


def test_made_up_pictures_are_natural_enough():
    """Most of their power is in low frequencies, as in photographs, and they span the bytes."""
    from keras_mnv4.export.prepare import example_pictures

    pictures = example_pictures((64, 48, 3))
    assert pictures.shape == (4, 64, 48, 3)
    assert pictures.min() == 0
    assert pictures.max() == 255
    power = np.abs(np.fft.fft2(pictures - pictures.mean((1, 2), keepdims=True), axes=(1, 2))) ** 2
    low = power[:, :5, :5].sum() + power[:, -4:, :5].sum() + power[:, :5, -4:].sum() + power[:, -4:, -4:].sum()
    assert low > 0.5 * power.sum()
