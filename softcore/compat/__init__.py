"""The functions of other libraries, with their signatures and defaults, computed by softcore."""

from softcore.compat import scipy

__all__ = ["scipy"]
