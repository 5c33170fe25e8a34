"""Training on two devices, held against one: in a process of its own, where there are two from the start."""

import contextlib
import os
import subprocess
import sys

import keras
import numpy as np

CODE = "import sys, devices; from {} import {} as train; devices.write(train, *sys.argv[1:])"


def on_one_and_two(train, folder):
    """What a function of a test module gives on one device, and on two: two dictionaries of arrays.

    Args:
        train: function without arguments that builds a model, trains it, and gives a dictionary of arrays.
        folder: for the results on their way here.
    """
    files = [str(folder / name) for name in ("one.npz", "two.npz")]
    environment = {
        **os.environ,
        "KERAS_BACKEND": keras.backend.backend(),
        "PYTHONPATH": os.pathsep.join(sys.path),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
    }
    command = [sys.executable, "-c", CODE.format(train.__module__, train.__name__), *files]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = (dict(np.load(file)) for file in files)
    assert one.keys() == two.keys()
    return one, two


def write(train, one, two):
    """Runs in the new process."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        (device,) = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(device, [tf.config.LogicalDeviceConfiguration()] * 2)
    np.savez(one, **train())
    with _two_devices():
        np.savez(two, **train())


@contextlib.contextmanager
def _two_devices():
    if keras.backend.backend() == "jax":
        keras.distribution.set_distribution(keras.distribution.DataParallel())
        assert keras.distribution.distribution().device_mesh.shape == (2,)
        yield
        return
    import tensorflow as tf

    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    assert strategy.num_replicas_in_sync == 2
    with strategy.scope():
        yield
