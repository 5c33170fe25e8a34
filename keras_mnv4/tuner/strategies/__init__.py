"""How a supernet is trained, and how it is learnt meanwhile which of its networks is good."""

from keras_mnv4.tuner.strategies.darts import DARTS
from keras_mnv4.tuner.strategies.proxyless import ProxylessNAS
from keras_mnv4.tuner.strategies.spos import SPOS
from keras_mnv4.tuner.strategies.strategy import search_batches
from keras_mnv4.tuner.strategies.tunas import TuNAS

__all__ = ["DARTS", "SPOS", "ProxylessNAS", "TuNAS", "search_batches"]
