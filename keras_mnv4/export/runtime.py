"""`LiteRTModel`: runs a TFLite file on arrays."""

import os
import pathlib
import warnings

import numpy as np


class LiteRTModel:
    """A TFLite file of one input, ready to run on the CPU.

    Args:
        source: path of the file, or its bytes.
        num_threads: threads to use.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a TFLite file, or was cut off.

    Example:

    >>> LiteRTModel("vision.tflite").predict(pictures).shape  # bytes in, probabilities out
    (8, 1000)
    """

    def __init__(self, source, num_threads=None):
        self._interpreter = make_interpreter(source, num_threads or os.cpu_count())
        (self.input,) = self._interpreter.get_input_details()
        self.outputs = self._interpreter.get_output_details()

    @property
    def input_shape(self):
        """`(1, height, width, channels)`."""
        return tuple(int(size) for size in self.input["shape"])

    def predict(self, inputs):
        """Runs the file on each input, one at a time.

        Args:
            inputs: array `(count, height, width, channels)`. Of an integer type: bytes of pictures, 0 to 255, for a
                network that was trained with its scaling of bytes inside; int8 for an int8 file are its own codes,
                bytes less 128. Of a float type: values as the network sees them behind that, which the file's input
                scale rounds.

        Returns:
            float32 array `(count, ...)` of what the output stands for; of a file with several outputs, a list of such
            arrays, in the order of the Keras model's `outputs`.

        Raises:
            ValueError: if there are no inputs, if they have another shape, or, of an integer file, if integers are no
                bytes.

        Warns:
            UserWarning: if most of the inputs are floats that the input of an integer file cannot hold, such as bytes
                where it takes -1 to 1.
        """
        found = [_real(*each) for each in zip(self._run_all(inputs), self.outputs, strict=True)]
        return only_or_all(found)

    def predict_codes(self, inputs):
        """Like `predict`, but returns the outputs as the file gives them: int8 or uint8 codes, or floats."""
        return only_or_all(self._run_all(inputs))

    def quantize(self, inputs):
        """`inputs` in the type of the file's input.

        Args:
            inputs: array, as for `predict`.

        Raises:
            ValueError: if the file is an integer one, and integers are no bytes.
        """
        dtype = self.input["dtype"]
        if np.issubdtype(dtype, np.floating):
            return inputs.astype(dtype)
        info = np.iinfo(dtype)
        if inputs.dtype == dtype:
            return inputs
        if np.issubdtype(inputs.dtype, np.integer):
            if inputs.min() < 0 or inputs.max() > 255:
                raise ValueError(
                    "`inputs` of an integer type must be bytes of pictures, from 0 to 255. Received: "
                    f"{inputs.dtype} from {inputs.min()} to {inputs.max()}"
                )
            return (inputs.astype("int32") + info.min).astype(dtype)
        scale, zero_point = self.input["quantization"]
        return np.clip(np.round(inputs / scale) + zero_point, info.min, info.max).astype(dtype)

    def _run_all(self, inputs):
        """For each output the array of what the file gives for all inputs."""
        inputs = np.asarray(inputs)
        if not len(inputs) or inputs.shape[1:] != self.input_shape[1:]:
            raise ValueError(
                f"`inputs` must be one or more of shape {self.input_shape[1:]}, (count, ...). Received: {inputs.shape}"
            )
        self._warn_of_clipping(inputs)
        found = zip(*[self._run(codes) for codes in self.quantize(inputs)], strict=True)
        return [np.stack(each) for each in found]

    def _warn_of_clipping(self, inputs):
        dtype = self.input["dtype"]
        if np.issubdtype(dtype, np.floating) or not np.issubdtype(inputs.dtype, np.floating):
            return
        scale, zero_point = self.input["quantization"]
        low, high = (scale * (code - zero_point) for code in (np.iinfo(dtype).min, np.iinfo(dtype).max))
        if np.mean((inputs < low - scale) | (inputs > high + scale)) > 0.5:
            warnings.warn(
                f"`inputs` are floats from {inputs.min():.3g} to {inputs.max():.3g}, and the file's input holds "
                f"{low:.3g} to {high:.3g}: most are cut off. Floats are what the network sees behind its scaling; "
                'bytes of pictures must be of an integer type, as of `astype("uint8")`.',
                stacklevel=4,
            )

    def _run(self, codes):
        self._interpreter.set_tensor(self.input["index"], codes[None])
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(output["index"])[0] for output in self.outputs]


def only_or_all(found):
    """What there is one of by itself, several as the list that they are."""
    return found if len(found) > 1 else found[0]


def _real(codes, output):
    """What the codes of an output stand for."""
    scale, zero_point = output["quantization"]
    return codes if scale == 0 else ((codes.astype("int32") - zero_point) * np.float32(scale)).astype("float32")


def make_interpreter(source, num_threads):
    """LiteRT's own interpreter of a TFLite file, ready for `invoke`.

    Args:
        source: path of the file, or its bytes.
        num_threads: threads to use.

    Raises:
        ValueError: if it is not a TFLite file, or was cut off.
    """
    from ai_edge_litert.interpreter import Interpreter

    content = source if isinstance(source, bytes) else pathlib.Path(source).read_bytes()
    try:
        interpreter = Interpreter(model_content=content, num_threads=num_threads)
    except ValueError as error:
        name = "the bytes" if content is source else repr(str(source))
        raise ValueError(f"Not a TFLite file, or one that was cut off: {name}. {error}") from error
    interpreter.allocate_tensors()
    return interpreter
