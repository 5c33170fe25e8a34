"""`Grid`: the numbers that a fake-quantiser rounds to, in NumPy."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Grid:
    """The numbers that a fake-quantiser rounds to: `scale * (code - zero_point)`.

    Args:
        scale: float32, a scalar or one for each channel.
        zero_point: code of zero, of the same shape.
        first: lowest code.
        last: highest code.
    """

    scale: np.ndarray
    zero_point: np.ndarray
    first: int
    last: int

    @classmethod
    def over(cls, low, high, num_bits, narrow_range):
        """The grid over the range `[low, high]`, shifted until zero lies on it, as TensorFlow's fake-quantisers do."""
        first, last = int(narrow_range), 2**num_bits - 1
        low, high = np.asarray(low, "float32"), np.asarray(high, "float32")
        scale = (high - low) / np.float32(last - first)
        scale = np.where(scale == 0, np.float32(1), scale)
        zero_point = np.clip(np.floor(first - low / scale + np.float32(0.5)), first, last)
        return cls(scale, zero_point.astype("int32"), first, last)

    @property
    def ends(self):
        """The lowest and the highest number."""
        return tuple(self.values(np.asarray(code)) for code in (self.first, self.last))

    def codes(self, values):
        """The codes of `values`; beyond the ends they saturate."""
        return np.clip(np.rint(values / self.scale) + self.zero_point, self.first, self.last).astype("int32")

    def values(self, codes):
        """What `codes` stand for."""
        return self.scale * (codes - self.zero_point).astype("float32")

    def for_each(self, channels):
        """The grids of `channels` channels, one below the other."""
        scale, zero_point = (np.broadcast_to(each, channels)[:, None] for each in (self.scale, self.zero_point))
        return dataclasses.replace(self, scale=scale, zero_point=zero_point)
