"""`measure_latency`: how long a TFLite file takes on this machine's CPU."""

import dataclasses
import time

import numpy as np


@dataclasses.dataclass(frozen=True)
class Latency:
    """Time of one run, in milliseconds, over many runs.

    Args:
        median: the middle value: the one to quote.
        p10: a tenth of the runs were faster.
        p90: a tenth were slower.
    """

    median: float
    p10: float
    p90: float

    def __str__(self):
        return f"{self.median:.2f} ms"


def measure_latency(source, num_threads=1, runs=50):
    """Times a TFLite file with LiteRT.

    Args:
        source: path of the file, or its bytes.
        num_threads: threads to use.
        runs: counted runs; a tenth as many go before, uncounted.

    Returns:
        A `Latency`.

    Example:

    >>> measure_latency("vision.tflite").median < 100
    True
    """
    from keras_mnv4.export.runtime import LiteRTModel

    model = LiteRTModel(source, num_threads)
    times = []
    for run in range(-(runs // 10), runs):
        start = time.perf_counter()
        model.run_once()
        if run >= 0:
            times.append(1e3 * (time.perf_counter() - start))
    p10, median, p90 = np.percentile(times, (10, 50, 90))
    return Latency(float(median), float(p10), float(p90))
