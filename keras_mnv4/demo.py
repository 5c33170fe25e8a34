"""The whole job, from pictures to verified files, as one function."""

import dataclasses

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

from keras_mnv4 import applications
from keras_mnv4 import cost
from keras_mnv4 import data as pictures
from keras_mnv4 import export
from keras_mnv4 import training
from keras_mnv4.files import atomic_file
from keras_mnv4.files import make_folder
from keras_mnv4.qat.fake_quantize import is_quantized

DIGITS_TOP1 = 0.97
DIGITS_DROP = 0.005
FOLDER_DROP = 0.01  # or two pictures, if that is more
BETTER_THAN_CHANCE = 0.1  # of the way from chance to all that must be learnt of a folder
VERIFICATION_PICTURES = 64
MIN_SAME_TOP1 = 0.9  # a network that has learnt little is often undecided between two classes


@dataclasses.dataclass(frozen=True)
class Check:
    """One verification: what was asked, whether it held, and the figure.

    Example:

    >>> Check("float model has learnt", ok=True, figure="99.4%, at least 97%").ok
    True
    """

    name: str
    ok: bool
    figure: str


@dataclasses.dataclass(frozen=True)
class Row:
    """One form of the network in the final table.

    Example:

    >>> Row("app TFLite, uint8 in", size=2_880_000, top1=0.99).latency is None
    True
    """

    form: str
    size: int
    top1: float
    latency: cost.Latency | None = None


@dataclasses.dataclass(frozen=True)
class DemoResult:
    """What `run_demo` made and measured.

    Args:
        name: name of the network.
        parameters: trainable parameters.
        macs: multiply-accumulates for one picture.
        rows: one for each form of the network.
        checks: the verifications; `ok` if all held.

    Example:

    >>> checks = (Check("one", True, ""), Check("another", False, ""))
    >>> DemoResult("mine", 2_505_834, 16_200_000, rows=(), checks=checks).ok
    False
    """

    name: str
    parameters: int
    macs: int
    rows: tuple[Row, ...]
    checks: tuple[Check, ...]

    @property
    def ok(self):
        return all(check.ok for check in self.checks)


def run_demo(
    out,
    data_dir=None,
    size=None,
    epochs=15,
    qat_epochs=2,
    build=applications.MobileNetV4ConvSmall,
    console=None,
    flip=True,
):
    """Trains a network, quantises it, exports it three ways and compares all of them on the test set.

    Args:
        out: folder for `float.keras`, `w8a8.keras`, `edgetpu.tflite`, `app.tflite` and `float.onnx`; made if missing,
            and its files of these names replaced.
        data_dir: a folder of images as `keras_mnv4.data.load_image_folder` reads it; by default scikit-learn's
            handwritten digits.
        size: height and width of the pictures in pixels; by default 64 for digits and 96 for a folder.
        epochs: passes of float training; 15 by default.
        qat_epochs: passes of quantisation-aware training.
        build: constructor of a float network, with the arguments of `keras_mnv4.applications`.
        console: a `rich.console.Console` to print to.
        flip: whether pictures of a folder and their mirror images are the same things. Digits are not mirrored.

    Returns:
        A `DemoResult`.

    Raises:
        ValueError: if the network is quantised already.
        ExportError: if an exported file fails its verification.

    Example:

    >>> result = run_demo("out", data_dir="photos", epochs=30)
    """
    console = console or Console()
    out = make_folder(out, "out")
    is_digits = data_dir is None
    flip = flip and not is_digits
    size = size or (64 if is_digits else 96)
    keras.utils.set_random_seed(0)

    console.rule("Pictures")
    data = pictures.load_digits(size) if is_digits else pictures.load_image_folder(data_dir, size)
    sets = [f"{getattr(data, split).num_pictures} {split}" for split in pictures.SPLITS]
    console.print(f"{len(data.class_names)} classes; {', '.join(sets)}; {len(data.skipped)} unreadable files left out")

    console.rule("Float training")
    model = build(weights=None, input_shape=(size, size, 3), classes=len(data.class_names), dropout_rate=0.2)
    if is_quantized(model):
        raise ValueError(f"`build` must build a float network, for it is quantised here. Received: `{model.name}`")
    training.train(model, data, epochs, flip=flip)
    with atomic_file(out / "float.keras", overwrite=True) as temporary:
        model.save(temporary)

    console.rule("Quantisation-aware training")
    quantized = training.quantize(model, data, epochs=qat_epochs, flip=flip)
    with atomic_file(out / "w8a8.keras", overwrite=True) as temporary:
        quantized.save(temporary)

    console.rule("Export and verification")
    with console.status("Converting and comparing"):
        samples = data.test.arrays(VERIFICATION_PICTURES)[0].astype("float32")
        edgetpu = export.to_litert(quantized, out / "edgetpu.tflite", target="edgetpu", samples=samples, overwrite=True)
        app = export.to_litert(
            quantized, out / "app.tflite", target="app", samples=samples, class_names=data.class_names, overwrite=True
        )
        onnx = export.to_onnx(model, out / "float.onnx", samples=samples, overwrite=True)
        rows = _measure(out, data, model, quantized)
    reloaded = keras.models.load_model(out / "w8a8.keras")
    float_top1, _, int8_top1, app_top1, _ = (row.top1 for row in rows)
    if is_digits:
        least, drop = DIGITS_TOP1, DIGITS_DROP
    else:
        chance = 1 / len(data.class_names)
        least = chance + BETTER_THAN_CHANCE * (1 - chance)
        drop = max(FOLDER_DROP, 2 / data.test.num_pictures)
    checks = (
        Check("float model has learnt", float_top1 >= least, f"{float_top1:.2%}, at least {least:.0%}"),
        Check(
            "saved model gives the same outputs",
            np.array_equal(quantized.predict(samples, verbose=0), reloaded.predict(samples, verbose=0)),
            f"{len(samples)} pictures",
        ),
        Check("Edge TPU file maps wholly", edgetpu.edgetpu.ok, str(edgetpu.edgetpu)),
        Check(
            "every operator is its layer",
            all(part.within_one_step >= 0.999 for part in (*edgetpu.parts, *app.parts)),
            _parts(edgetpu),
        ),
        Check("Edge TPU file is the trained model", edgetpu.agreement.top1 >= MIN_SAME_TOP1, _agreement(edgetpu)),
        Check("app file is the trained model", app.agreement.top1 >= MIN_SAME_TOP1, _agreement(app)),
        Check("ONNX file is the float model", onnx.agreement.top1 == 1.0, _agreement(onnx)),
        Check("int8 keeps the accuracy", int8_top1 >= float_top1 - drop, _points(int8_top1 - float_top1, drop)),
        Check("app file keeps the accuracy", app_top1 >= float_top1 - drop, _points(app_top1 - float_top1, drop)),
    )
    parameters = sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
    result = DemoResult(model.name, parameters, cost.profile(model).macs, tuple(rows), checks)
    _print(result, out, console)
    return result


def _measure(out, data, model, quantized):
    test, labels = data.test.arrays()

    def share(outputs):
        return float((np.argmax(outputs, -1) == labels).mean())

    def row(form, name, outputs):
        latency = cost.measure_latency(out / name) if name.endswith(".tflite") else None
        return Row(form, (out / name).stat().st_size, share(outputs), latency)

    return [
        row("Keras, float", "float.keras", model.predict(data.test, verbose=0)),
        row("Keras, w8a8 QAT", "w8a8.keras", quantized.predict(data.test, verbose=0)),
        row("Edge TPU TFLite, int8", "edgetpu.tflite", export.LiteRTModel(out / "edgetpu.tflite").predict(test)),
        row("app TFLite, uint8 in", "app.tflite", export.LiteRTModel(out / "app.tflite").predict(test)),
        row("ONNX, float", "float.onnx", export.run_onnx(out / "float.onnx", test)),
    ]


def _agreement(report):
    agreement = report.agreement
    return f"top-1 same on {agreement.top1:.1%} of {agreement.samples}; {agreement.within_one_step:.2%} within 1 step"


def _parts(report):
    exact = min(part.exact for part in report.parts)
    within = min(part.within_one_step for part in report.parts)
    return f"of {len(report.parts)}, each has {exact:.1%} or more the same code, {within:.2%} or more within one step"


def _points(difference, drop):
    return f"{100 * difference:+.2f} points, at least {-100 * drop:.1f}"


def _print(result, out, console):
    title = f"{result.name}: {result.parameters:,} parameters, {result.macs / 1e6:.1f} M multiply-accumulates"
    table = Table("form", "size", "test top-1", "one thread", title=title, title_justify="left")
    for row in result.rows:
        table.add_row(row.form, f"{row.size / 1e6:.2f} MB", f"{row.top1:.2%}", str(row.latency or "-"))
    console.print(table)
    for check in result.checks:
        mark = "[green]ok[/]" if check.ok else "[bold red]FAILED[/]"
        console.print(f"{mark} {check.name}: {check.figure}")
    console.print(f"Files in {out}")
