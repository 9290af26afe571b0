"""Decoupled neural interfaces: train any PyTorch network with synthetic gradients."""

from .errors import (
    AttachmentError,
    CheckpointError,
    ConfigError,
    ContextError,
    DNIError,
    DNIWarning,
    ShapeError,
    SiteError,
)
from .synthesizers import (
    RNNDNI,
    Conv2dDNI,
    CriticDNI,
    DNINetwork,
    LabelFreeCriticDNI,
    LeastSquaresDNI,
    LinearBatchNormDNI,
    LinearDNI,
    LinearSigmoidDNI,
)
from .temporal import TemporalDNI
from .wrapper import DNI

# `from dni import *`, which the package's users know, is not to bring the submodules with it.
__all__ = [
    "DNI",
    "RNNDNI",
    "AttachmentError",
    "CheckpointError",
    "ConfigError",
    "ContextError",
    "Conv2dDNI",
    "CriticDNI",
    "DNIError",
    "DNINetwork",
    "DNIWarning",
    "LabelFreeCriticDNI",
    "LeastSquaresDNI",
    "LinearBatchNormDNI",
    "LinearDNI",
    "LinearSigmoidDNI",
    "ShapeError",
    "SiteError",
    "TemporalDNI",
]

__version__ = "0.1.0"
