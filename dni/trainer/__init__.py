"""The trainer: steps, phases, events, callbacks and strategies, built from a config or in code."""

# Each of these also enters its classes into the registries.
from . import backprop as backprop
from . import curves as curves
from . import dni_strategy as dni_strategy
from . import gan_losses as gan_losses
from . import image_losses as image_losses
from . import injectors as injectors
from . import losses as losses
from . import networks as networks
from . import plateau as plateau
from . import recurrent as recurrent
from . import temporal_strategy as temporal_strategy
from . import tensor_injectors as tensor_injectors
from .data import Source, make_source
from .datasets import Tensors
from .events import Callback, CancelEpoch, CancelFit, CancelStep, throttle
from .phases import Phase, TrainingPhase, ValidationPhase
from .record import Record
from .registry import (
    CALLBACKS,
    DATA,
    INJECTORS,
    LOSSES,
    METRICS,
    NETWORKS,
    PHASES,
    SCHEDULES,
    STRATEGIES,
)
from .schedules import Schedule, make_schedule
from .state import State
from .steps import Step
from .strategies import Strategy
from .trainer import Trainer
from .when import When

__all__ = [
    "CALLBACKS",
    "DATA",
    "INJECTORS",
    "LOSSES",
    "METRICS",
    "NETWORKS",
    "PHASES",
    "SCHEDULES",
    "STRATEGIES",
    "Callback",
    "CancelEpoch",
    "CancelFit",
    "CancelStep",
    "Phase",
    "Record",
    "Schedule",
    "Source",
    "State",
    "Step",
    "Strategy",
    "Tensors",
    "Trainer",
    "TrainingPhase",
    "ValidationPhase",
    "When",
    "make_schedule",
    "make_source",
    "throttle",
]
