"""Callbacks shipped with the trainer; a config calls them by their registered names."""

from .checkpointing import Checkpointing
from .csvlog import CsvLogger, read_log
from .dni_statistics import DNIStatistics
from .ema import EMA
from .images import ImageDump
from .lr_finder import LRFinder
from .metrics import Metrics
from .profiler import Profiler
from .progress import Progress
from .sanity import SanityCheck
from .stopping import EarlyStopping, StopOnNaN
from .tensorboard import TensorBoard
from .traces import Traces

__all__ = [
    "EMA",
    "Checkpointing",
    "CsvLogger",
    "DNIStatistics",
    "EarlyStopping",
    "ImageDump",
    "LRFinder",
    "Metrics",
    "Profiler",
    "Progress",
    "SanityCheck",
    "StopOnNaN",
    "TensorBoard",
    "Traces",
    "read_log",
]
