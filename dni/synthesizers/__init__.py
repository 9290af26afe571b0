"""Synthetic-gradient networks, and the choice of one for a site."""

from .base import DNINetwork as DNINetwork
from .choose import Layout as Layout
from .choose import choose as choose
from .choose import layout_of as layout_of
from .choose import resolve as resolve
from .conv import Conv2dDNI as Conv2dDNI
from .critic import CriticDNI as CriticDNI
from .label_free import LabelFreeCriticDNI as LabelFreeCriticDNI
from .least_squares import LeastSquaresDNI as LeastSquaresDNI
from .linear import LinearBatchNormDNI as LinearBatchNormDNI
from .linear import LinearDNI as LinearDNI
from .linear import LinearSigmoidDNI as LinearSigmoidDNI
from .recurrent import RNNDNI as RNNDNI
