"""`ExportReport`: what an export has made."""

import dataclasses
import pathlib

from keras_mnv4.export.edgetpu import EdgeTPUReport
from keras_mnv4.export.verify import Agreement
from keras_mnv4.export.verify import PartAgreement


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """What was made, and how it compares with the Keras model.

    Args:
        path: the file.
        size: its size in bytes.
        agreements: comparison of each output, by its name.
        parts: comparison of each operator of an integer file with the part of the model that it came from.
        edgetpu: report of `check_edgetpu`, for the target `"edgetpu"`.
        float_layers: layers of an integer ONNX file that compute in float, kernels included: those that the policy
            left so, or behind which nothing rounds. A TFLite file with such layers is an error.
    """

    path: pathlib.Path
    size: int
    agreements: dict[str, Agreement]
    parts: tuple[PartAgreement, ...] = ()
    edgetpu: EdgeTPUReport | None = None
    float_layers: tuple[str, ...] = ()

    @property
    def agreement(self):
        """Comparison of the output; of several, of the one that agrees least."""
        return min(self.agreements.values(), key=lambda each: each.within_one_step)
