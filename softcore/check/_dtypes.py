"""The dtypes that arrays are computed in."""

from __future__ import annotations

import numpy as np


def computing(*arrays: np.ndarray | None) -> np.dtype:
    """The dtype of arithmetic on the arrays together: integers and bool count as float64, float16 with bfloat16 gives float32."""
    dtypes = {_native(a.dtype) if a.dtype.kind not in "biu" else np.dtype(np.float64) for a in arrays if a is not None}
    if len(dtypes) == 1:
        return dtypes.pop()
    return np.dtype(np.float64 if np.dtype(np.float64) in dtypes else np.float32)


def selecting(*arrays: np.ndarray) -> np.dtype:
    """The dtype of a choice among elements of the arrays: as for arithmetic, except that integers and bool stay what they are."""
    if len(arrays) == 1:
        return _native(arrays[0].dtype)
    if all(a.dtype.kind in "biu" for a in arrays):
        return np.result_type(*(_native(a.dtype) for a in arrays))
    return computing(*arrays)


def scaled(dtype: np.dtype, scale: float) -> np.dtype:
    """The dtype of arithmetic on `dtype` with the factor `scale`: float64 where float32 would lose the factor's bits or overflow."""
    return dtype if scale == 0 or 1e-30 <= abs(scale) <= 1e30 or not np.isfinite(scale) else np.dtype(np.float64)


def _native(dtype):
    return dtype if dtype.isnative else dtype.newbyteorder("=")


def is_floating(dtype: np.dtype) -> bool:
    """Whether it is one of the four floating dtypes."""
    # bfloat16 comes from ml_dtypes, which softcore does not need and so does not import.
    return dtype.char in "efd" or dtype.type.__name__ == "bfloat16"
