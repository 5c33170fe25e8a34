"""Training speed on this machine: this package in Keras against timm in PyTorch, rounds interleaved, ratios of medians.

A step is forward, backward and the optimizer's update, on one batch of random pictures that is on the device before the
clock starts. Keras runs as its users run it: `compile(jit_compile=True)` and `fit`, on the backend that `KERAS_BACKEND`
names. timm runs with torch.compile, channels_last and, for mixed_bfloat16, autocast. Both build the same network.

    KERAS_BACKEND=jax python benchmarks/train.py    # for a CPU: ConvSmall, 8 pictures of 96 pixels, one core
    KERAS_BACKEND=jax python benchmarks/train.py --networks conv_small conv_medium hybrid_medium \\
        --batch 256 --size 224 --dtype mixed_bfloat16 --steps 30 --rounds 10 --cores 0    # for a GPU

`--side both`, the default, needs `pip install torch timm` beside this package; without, only ours is shown. The ratios
hold within one run on an idle machine; those of two runs of one side each do not. On a busy CPU, PyTorch's threads wait
for each other so long that a hundredfold was seen: hence one core by default, for both sides alike.

Measured so far: the default, 3.5 minutes on one core of an AMD EPYC with other work beside it. Keras on JAX made 13
pictures a second, timm 76: a ratio of 0.17. The gradient alone under `jax.jit` took as long as a step (4 pictures of 64
pixels), so the time is in XLA's program, not in `fit`. Nothing is measured on a GPU yet.
"""

import argparse
import gc
import importlib
import os
import time

import numpy as np
from rich.console import Console
from rich.table import Table

CLASSES = 1000
MODULES = {"keras": "keras_mnv4", "timm": "timm"}  # what each side needs
LEARNING_RATE = 1e-3


def networks():
    """Our architectures, by what timm calls them behind `mobilenetv4_`; it has all but `conv_medium_seg`."""
    from keras_mnv4.applications.mobilenet_v4 import ARCHITECTURES

    return {each.name.removeprefix("mobilenet_v4_"): each for each in ARCHITECTURES.values()}


def random_batch(options):
    """Scaled pictures, channels last, and their labels."""
    random = np.random.default_rng(0)
    pictures = random.standard_normal((options.batch, options.size, options.size, 3), "float32")
    return pictures, random.integers(0, CLASSES, options.batch)


def keras_trainer(network, options):
    """A function from a number of steps to the seconds that Keras takes for them."""
    import keras

    from keras_mnv4.applications import build_network

    if network not in networks():
        raise SystemExit(f"`--networks` must be of {', '.join(networks())}. Received: {network}")
    keras.config.set_dtype_policy(options.dtype)
    pictures, labels = random_batch(options)

    class Pictures(keras.layers.Layer):
        """Gives the same batch whatever comes in. As a weight, it is on the device."""

        def build(self, input_shape):
            self.batch = self.add_weight(shape=pictures.shape, trainable=False, initializer="zeros", dtype="float32")
            self.batch.assign(pictures)

        def call(self, inputs):
            return keras.ops.convert_to_tensor(self.batch)

    class Stopwatch(keras.callbacks.Callback):
        """When the loss of each step was known. To read it does not hold up the steps behind."""

        async_safe = True

        def on_train_begin(self, logs=None):
            self.times = {}

        def on_train_batch_end(self, batch, logs=None):
            float(logs["loss"])
            self.times[batch] = time.perf_counter()

    shape = (options.size, options.size, 3)
    body = build_network(
        networks()[network],
        input_shape=shape,
        classifier_activation=None,
        definition=options.definition,
        include_preprocessing=False,
    )
    inputs = keras.Input((1,), batch_size=options.batch)
    model = keras.Model(inputs, body(Pictures()(inputs)))
    optimizers = {"adamw": keras.optimizers.AdamW(LEARNING_RATE), "sgd": keras.optimizers.SGD(LEARNING_RATE, 0.9)}
    optimizer = optimizers[options.optimizer]
    optimizer.build(model.trainable_variables)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=True)

    def train(steps):
        count = (steps + 1) * options.batch  # the first step starts the clock
        nothing, stopwatch = np.zeros((count, 1), "float32"), Stopwatch()
        targets = np.tile(labels, steps + 1)
        model.fit(nothing, targets, batch_size=options.batch, shuffle=False, epochs=1, verbose=0, callbacks=[stopwatch])
        return stopwatch.times[steps] - stopwatch.times[0]

    return train


def timm_trainer(network, options):
    """A function from a number of steps to the seconds that timm takes for them."""
    import timm
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    pictures, labels = random_batch(options)
    pictures = torch.tensor(pictures.transpose(0, 3, 1, 2)).to(device, memory_format=torch.channels_last)
    labels = torch.tensor(labels).to(device)
    model = timm.create_model(f"mobilenetv4_{network}", num_classes=CLASSES).train()
    model = model.to(device, memory_format=torch.channels_last)
    if options.optimizer == "adamw":
        optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, fused=True)
    else:
        optimizer = torch.optim.SGD(model.parameters(), LEARNING_RATE, 0.9, fused=True)
    compiled = torch.compile(model)

    def step():
        with torch.autocast(device, torch.bfloat16, enabled=options.dtype == "mixed_bfloat16"):
            loss = torch.nn.functional.cross_entropy(compiled(pictures), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    def train(steps):
        step().item()  # waits until the device is done
        start = time.perf_counter()
        for _ in range(steps):
            loss = step()
        loss.item()
        return time.perf_counter() - start

    return train


TRAINERS = {"keras": keras_trainer, "timm": timm_trainer}


def measure(network, sides, options):
    """Pictures a second of each side in each round, taking turns so that drift hits all alike."""
    trainers = {side: TRAINERS[side](network, options) for side in sides}
    for train in trainers.values():
        train(1)  # compiles
    seconds = {side: np.empty(options.rounds) for side in sides}
    for index in range(options.rounds):
        for side, train in trainers.items():
            seconds[side][index] = train(options.steps)
    return {side: options.batch * options.steps / times for side, times in seconds.items()}


def importable(side, console):
    """Whether a side can run here; says so if not."""
    try:
        importlib.import_module(MODULES[side])
    except ImportError as error:
        console.print(f"Without {side}: {error}.")
        return False
    return True


def titles(sides):
    """What each side is, versions and all."""
    for side in sides:
        if side == "keras":
            import keras

            devices = ", ".join(keras.distribution.list_devices())
            yield f"Keras {keras.__version__}, {keras.backend.backend()}, {devices}"
        else:
            import timm
            import torch

            device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
            yield f"timm {timm.__version__}, PyTorch {torch.__version__}, {device}"


def main(options):
    if options.cores:  # before either side counts them and starts its threads
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    # Neither side takes all of a GPU's memory at once.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    console = Console()
    wanted = MODULES if options.side == "both" else [options.side]
    sides = [side for side in wanted if importable(side, console)]
    if not sides:
        raise SystemExit(1)
    table = Table("network", *titles(sides), *(["Keras / timm"] if len(sides) == 2 else []))
    for network in options.networks:
        rates = measure(network, sides, options)
        medians = [np.median(rate) for rate in rates.values()]
        cells = [f"{np.median(rate):.1f} ({rate.min():.1f} to {rate.max():.1f})" for rate in rates.values()]
        table.add_row(network, *cells, *([f"{medians[0] / medians[1]:.2f}"] if len(sides) == 2 else []))
        gc.collect()
    console.print(
        f"Pictures a second in training, median (least to most) of {options.rounds} rounds of {options.steps} steps: "
        f"batch {options.batch}, {options.size} pixels, {options.dtype}, {options.optimizer}, "
        f"CPU cores: {len(os.sched_getaffinity(0))}"
    )
    console.print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Pictures a second in training: this package against timm.")
    parser.add_argument("--side", choices=["keras", "timm", "both"], default="both")
    parser.add_argument("--networks", nargs="+", default=["conv_small"], metavar="NETWORK")
    parser.add_argument("--batch", type=int, default=8, help="pictures a step")
    parser.add_argument("--size", type=int, default=96, help="height and width, in pixels")
    parser.add_argument("--dtype", choices=["float32", "mixed_bfloat16"], default="float32")
    parser.add_argument("--optimizer", choices=["adamw", "sgd"], default="adamw")
    parser.add_argument("--definition", choices=["timm", "default", "model_garden"], default="timm", help="ours only")
    parser.add_argument("--steps", type=int, default=5, help="steps a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cores", type=int, default=1, help="CPU cores to run on, 0 for all")
    main(parser.parse_args())
