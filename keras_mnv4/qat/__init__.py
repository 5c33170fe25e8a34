"""Quantisation-aware training: quantisers, policies, and `quantize_model`."""

from keras_mnv4.qat.aqt import AQTActivationQuantizer
from keras_mnv4.qat.aqt import AQTWeightQuantizer
from keras_mnv4.qat.aqt import aqt_policy
from keras_mnv4.qat.bias_correction import correct_biases
from keras_mnv4.qat.calibration import calibrate
from keras_mnv4.qat.fake_quantize import RANGE_NAMES
from keras_mnv4.qat.fake_quantize import FakeQuantize
from keras_mnv4.qat.pikelpn import pikelpn_policy
from keras_mnv4.qat.policies import LayerQuantization
from keras_mnv4.qat.policies import NormQuantization
from keras_mnv4.qat.policies import Policy
from keras_mnv4.qat.policies import Rule
from keras_mnv4.qat.policies import get_policy
from keras_mnv4.qat.power_of_two import DoubleQuantizer
from keras_mnv4.qat.power_of_two import PowerOfTwoQuantizer
from keras_mnv4.qat.quantizable import QuantizableLayer
from keras_mnv4.qat.quantize import quantize_model
from keras_mnv4.qat.quantizers import AllValuesQuantizer
from keras_mnv4.qat.quantizers import FixedQuantizer
from keras_mnv4.qat.quantizers import LastValueQuantizer
from keras_mnv4.qat.quantizers import LearnedRangeQuantizer
from keras_mnv4.qat.quantizers import MovingAverageQuantizer
from keras_mnv4.qat.quantizers import Quantizer
from keras_mnv4.qat.report import quantization_report
from keras_mnv4.qat.rounding import optimize_rounding
from keras_mnv4.qat.statistics import FreezeStatistics
from keras_mnv4.qat.statistics import freeze_statistics
from keras_mnv4.qat.stock.wrapper import QuantizeWrapper

__all__ = [
    "RANGE_NAMES",
    "AQTActivationQuantizer",
    "AQTWeightQuantizer",
    "AllValuesQuantizer",
    "DoubleQuantizer",
    "FakeQuantize",
    "FixedQuantizer",
    "FreezeStatistics",
    "LastValueQuantizer",
    "LayerQuantization",
    "LearnedRangeQuantizer",
    "MovingAverageQuantizer",
    "NormQuantization",
    "Policy",
    "PowerOfTwoQuantizer",
    "QuantizableLayer",
    "QuantizeWrapper",
    "Quantizer",
    "Rule",
    "aqt_policy",
    "calibrate",
    "correct_biases",
    "freeze_statistics",
    "get_policy",
    "optimize_rounding",
    "pikelpn_policy",
    "quantization_report",
    "quantize_model",
]
