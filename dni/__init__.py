"""Decoupled neural interfaces: train any PyTorch network with synthetic gradients."""

from .errors import AttachmentError as AttachmentError
from .errors import CheckpointError as CheckpointError
from .errors import ConfigError as ConfigError
from .errors import ContextError as ContextError
from .errors import DNIError as DNIError
from .errors import DNIWarning as DNIWarning
from .errors import ShapeError as ShapeError
from .errors import SiteError as SiteError
from .synthesizers import RNNDNI as RNNDNI
from .synthesizers import Conv2dDNI as Conv2dDNI
from .synthesizers import DNINetwork as DNINetwork
from .synthesizers import LinearBatchNormDNI as LinearBatchNormDNI
from .synthesizers import LinearDNI as LinearDNI
from .synthesizers import LinearSigmoidDNI as LinearSigmoidDNI
from .wrapper import DNI as DNI

__version__ = "0.1.0"
