# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # One network, five files
#
# An integer file for an Edge TPU, one for a CPU, one for an app, one in float, and ONNX: what each is for, what it
# weighs, how long it takes on this machine, and how it is known to be right. `pip install 'keras-mnv4[demo,plots]'` has
# what this notebook needs.

# %%
import pathlib
import tempfile

import keras
import matplotlib.pyplot as plt

from keras_mnv4 import cost
from keras_mnv4 import export
from keras_mnv4 import training
from keras_mnv4.applications import MobileNetV4ConvSmall
from keras_mnv4.data import load_digits

# %% tags=["parameters"]
SIZE = 96  # pixels
EPOCHS = 3
RUNS = 50  # of each file, for its time

# %%
keras.utils.set_random_seed(0)
digits = load_digits(SIZE)
model = MobileNetV4ConvSmall(weights=None, classes=10, input_shape=(SIZE, SIZE, 3))
training.train(model, digits, EPOCHS, flip=False, verbose=0)
quantized = training.quantize(model, digits, "w8a8", epochs=0)
for name, form in (("float", model), ("8 bits", quantized)):
    print(f"{name}: {training.top1(form, digits.test):.1%} of the test set")

# %% [markdown]
# ## The files
#
# | target | for | picture in | scores out |
# |---|---|---|---|
# | `edgetpu` | Coral: integers only, operators that they know | int8 | int8 |
# | `cpu` | XNNPACK on a phone: integers, 4-bit kernels packed | int8 | int8 |
# | `app` | MediaPipe's ImageClassifier: labels and normalisation inside | uint8 | uint8 |
# | `float` | GPUs and NPUs, and to compare with | float32 | float32 |
# | ONNX | ONNX Runtime and what reads it; integers where the model has them | float32 | float32 |

# %%
out = pathlib.Path(tempfile.mkdtemp())
samples = digits.test.arrays(limit=16)[0]
reports = {
    target: export.to_litert(
        model if target == "float" else quantized,
        out / f"{target}.tflite",
        target=target,
        samples=samples,
        class_names=digits.class_names if target == "app" else None,
    )
    for target in ("edgetpu", "cpu", "app", "float")
}
reports["onnx"] = export.to_onnx(quantized, out / "vision.onnx", samples=samples)

times = {name: cost.measure_latency(report.path, runs=RUNS) for name, report in reports.items() if name != "onnx"}
print(f"{'':10}{'MB':>6}{'ms':>8}   of outputs, within one step of the Keras model")
for name, report in reports.items():
    time = f"{times[name].median:.2f}" if name in times else ""
    print(f"{name:10}{report.size / 1e6:6.2f}{time:>8}   {report.agreement.within_one_step:.1%}")

# %% [markdown]
# ## Is it right?
#
# Outputs that agree on a few pictures may do so by luck. So the file is run, and for each operator the layer that it
# came from is computed on the inputs that the operator had: an error is found where it is made,
# and named.

# %%
parts = reports["edgetpu"].parts
print(f"{len(parts)} operators compared; the one that differs most:")
print(min(parts, key=lambda part: part.exact))

# %% [markdown]
# ## Does it fit?
#
# `check_edgetpu` holds any TFLite file against what the Edge TPU's compiler documents. The float file does not pass,
# and is told why.

# %%
print(export.check_edgetpu(reports["edgetpu"].path))
print(*str(export.check_edgetpu(reports["float"].path)).splitlines()[:3], sep="\n")

# %% [markdown]
# ## Where the time goes

# %%
operators = cost.measure_operators(reports["cpu"].path, runs=RUNS)
print(operators)

figure, axes = plt.subplots(figsize=(10, 3), layout="constrained")
axes.bar(range(len(operators.operators)), [each.latency.median * 1e3 for each in operators.operators])
axes.set(xlabel="operator, in order of execution", ylabel="microseconds")
plt.show()

# %% [markdown]
# ## In use
#
# `LiteRTModel` takes pictures of 0 to 255 whatever the file's input is. An app file carries its labels;
# `install_android` puts it into the example app of `examples/android`, after checking that it is what the app expects.

# %%
picture, label = (array[0] for array in digits.test.arrays(limit=1))
for name, report in reports.items():
    run = export.run_onnx if name == "onnx" else lambda path, inputs: export.LiteRTModel(path).predict(inputs)
    score = run(report.path, picture[None])[0]
    print(f"{name:10}says {digits.class_names[score.argmax()]} ({score.max():.0%}); it is {digits.class_names[label]}")

project = out / "android"  # a copy of examples/android, in earnest
(project / "app/src/main").mkdir(parents=True)
print(export.install_android(reports["app"].path, project).relative_to(out))
