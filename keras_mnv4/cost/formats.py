"""`Format`: in what form, and with how many bits, a number is stored and computed with."""

import dataclasses
import re

from keras_mnv4.qat import DoubleQuantizer
from keras_mnv4.qat import PowerOfTwoQuantizer

KINDS = ("int", "float", "bfloat", "po2")


@dataclasses.dataclass(frozen=True)
class Format:
    """How a number is written.

    Args:
        kind: `"int"`; `"float"`, IEEE floating point; `"bfloat"`, that with the exponents of 32 bits in 16; `"po2"`, a
            power of two, of which only sign and exponent are stored.
        bits: bits a number.

    Raises:
        ValueError: if `kind` is none of these, or `bits` is not positive.

    Example:

    >>> str(Format("int", 8))
    'int8'
    """

    kind: str
    bits: int

    def __post_init__(self):
        if self.kind not in KINDS or self.bits < 1:
            raise ValueError(f"`kind` must be one of {KINDS} and `bits` positive. Received: {self.kind!r}, {self.bits}")

    @classmethod
    def named(cls, name):
        """The format that a dtype's name stands for, such as `"bfloat16"` or `"uint8"`.

        Raises:
            ValueError: if it stands for none.
        """
        parts = re.fullmatch(r"u?(int|float|bfloat|po2)_?(\d+)", str(name))
        if parts is None:
            raise ValueError(f"Not the name of a number format: {name!r}. Names are such as 'float32' and 'int4'.")
        return cls(parts[1], int(parts[2]))

    @property
    def is_float(self):
        return self.kind in ("float", "bfloat")

    def __str__(self):
        return f"{self.kind}{'_' * (self.kind == 'po2')}{self.bits}"


INT8 = Format("int", 8)
POWER_OF_TWO = Format("po2", 8)  # as a scale: only its exponent is needed
FLOAT32 = Format("float", 32)


def format_of(quantizer, otherwise):
    """The format that a `keras_mnv4.qat` quantiser rounds to; `otherwise` if it is None."""
    if quantizer is None:
        return otherwise
    return Format("po2" if isinstance(quantizer, PowerOfTwoQuantizer) else "int", quantizer.num_bits)


def scale_format_of(quantizer):
    """The format of the scales of a `keras_mnv4.qat` quantiser, or None for those that are not quantised."""
    if not isinstance(quantizer, DoubleQuantizer):
        return None
    return POWER_OF_TWO if quantizer.scale_bits is None else Format("int", quantizer.scale_bits)
