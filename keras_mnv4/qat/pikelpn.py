"""`pikelpn_policy`: norms and scales quantised as well, and depthwise kernels unlike pointwise ones."""

from keras_mnv4.qat.policies import CLASSIFIER
from keras_mnv4.qat.policies import INPUT_RULE
from keras_mnv4.qat.policies import KEYS_AND_VALUES
from keras_mnv4.qat.policies import POLICIES
from keras_mnv4.qat.policies import PROBABILITY_RULE
from keras_mnv4.qat.policies import STEM
from keras_mnv4.qat.policies import TANH_RULE
from keras_mnv4.qat.policies import NormQuantization
from keras_mnv4.qat.policies import Policy
from keras_mnv4.qat.policies import Rule
from keras_mnv4.qat.policies import linear_kernel
from keras_mnv4.qat.power_of_two import DoubleQuantizer
from keras_mnv4.qat.power_of_two import PowerOfTwoQuantizer
from keras_mnv4.qat.quantizers import FixedQuantizer
from keras_mnv4.qat.quantizers import MovingAverageQuantizer

LINEAR_8_BIT = linear_kernel(8)
POWER_OF_TWO_4_BIT = PowerOfTwoQuantizer(num_bits=4)
DEPTHWISE = r".*(depthwise|_down|/norm)"  # of this package's blocks: kernels of few weights a channel


def pikelpn_policy(
    activation_bits=8, depthwise=LINEAR_8_BIT, pointwise=POWER_OF_TWO_4_BIT, norm="default", scale_bits=8
):
    """The policy of PikeLPN: QuantNorm, Double Quantization and Distribution-Heterogeneous Quantization together.

    Weights of depthwise and of pointwise convolutions are spread differently, and get quantisers of their own. Scales
    are quantised, and so are normalisations of this package's layers; those of stock ones are folded into kernels, and
    `quantize_model` warns of it. The stem and the classifier have 8 bits.

    Source: PikeLPN (arXiv 2404.00103). A reconstruction: the text could not be obtained. Assumed are which quantiser is
    whose, all bits, and that stem and classifier are spared; each is an argument but the last.

    Args:
        activation_bits: bits of the outputs of layers, 2 to 16. Integer files hold 8 at most.
        depthwise: quantiser of the kernels of depthwise convolutions.
        pointwise: quantiser of all other kernels.
        norm: a `NormQuantization`; `"default"` for 8 bits each; None to leave norms in float, to be folded.
        scale_bits: bits of the scales, as for `DoubleQuantizer`: None for powers of two. `"float"` leaves them as they
            are.

    Returns:
        A `Policy`.

    Example:

    >>> reverse = pikelpn_policy(depthwise=POWER_OF_TWO_4_BIT, pointwise=LINEAR_8_BIT)
    """
    norm = NormQuantization() if norm == "default" else norm

    def with_scales(quantizer):
        if scale_bits == "float" or isinstance(quantizer, (PowerOfTwoQuantizer, FixedQuantizer)):
            return quantizer
        return DoubleQuantizer(quantizer, scale_bits)

    outputs = with_scales(MovingAverageQuantizer(num_bits=activation_bits))
    symmetric = with_scales(MovingAverageQuantizer(num_bits=min(activation_bits, 8), symmetric=True, narrow_range=True))
    eight_bits = with_scales(MovingAverageQuantizer(num_bits=8))
    depthwise, pointwise, ends = (with_scales(each) for each in (depthwise, pointwise, LINEAR_8_BIT))
    return Policy(
        (
            INPUT_RULE,
            PROBABILITY_RULE,
            TANH_RULE,
            Rule(STEM, ends, outputs, norm),
            Rule(CLASSIFIER, ends, eight_bits),
            Rule(KEYS_AND_VALUES, pointwise, symmetric, norm),
            Rule(DEPTHWISE, depthwise, outputs, norm),
            Rule(r".*", pointwise, outputs, norm),
        ),
        name="pikelpn",
    )


POLICIES["pikelpn"] = pikelpn_policy()
