"""What a network costs: counted, and measured."""

from keras_mnv4.cost.latency import Latency
from keras_mnv4.cost.latency import measure_latency
from keras_mnv4.cost.macs import count_macs

__all__ = ["Latency", "count_macs", "measure_latency"]
