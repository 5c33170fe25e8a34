"""What a network costs: counted, priced, and measured."""

from keras_mnv4.cost import plots as plots
from keras_mnv4.cost.arithmetic import Arithmetic
from keras_mnv4.cost.arithmetic import Row
from keras_mnv4.cost.arithmetic import Value
from keras_mnv4.cost.counters import register_counter
from keras_mnv4.cost.formats import Format
from keras_mnv4.cost.latency import FileLatency
from keras_mnv4.cost.latency import Latency
from keras_mnv4.cost.latency import measure_latency
from keras_mnv4.cost.latency import measure_operators
from keras_mnv4.cost.pareto import dominated_area
from keras_mnv4.cost.pareto import dominates
from keras_mnv4.cost.pareto import pareto_front
from keras_mnv4.cost.prices import ENERGIES
from keras_mnv4.cost.prices import PRICES
from keras_mnv4.cost.prices import PriceTable
from keras_mnv4.cost.profile import Profile
from keras_mnv4.cost.profile import profile
from keras_mnv4.cost.records import ROLES
from keras_mnv4.cost.roofline import RIDGE_POINTS
from keras_mnv4.cost.roofline import Roofline
from keras_mnv4.cost.roofline import fit_ridge_point
from keras_mnv4.cost.roofline import rank_correlation
from keras_mnv4.cost.roofline import roofline
from keras_mnv4.cost.roofline import sweep
from keras_mnv4.cost.roofline import universally_pareto
from keras_mnv4.cost.study import ParetoStudy
from keras_mnv4.cost.study import Run
from keras_mnv4.cost.study import study_curves
from keras_mnv4.cost.study import study_report
from keras_mnv4.cost.table_profiler import TableProfiler

__all__ = [
    "ENERGIES",
    "PRICES",
    "RIDGE_POINTS",
    "ROLES",
    "Arithmetic",
    "FileLatency",
    "Format",
    "Latency",
    "ParetoStudy",
    "PriceTable",
    "Profile",
    "Roofline",
    "Row",
    "Run",
    "TableProfiler",
    "Value",
    "dominated_area",
    "dominates",
    "fit_ridge_point",
    "measure_latency",
    "measure_operators",
    "pareto_front",
    "profile",
    "rank_correlation",
    "register_counter",
    "roofline",
    "study_curves",
    "study_report",
    "sweep",
    "universally_pareto",
]
