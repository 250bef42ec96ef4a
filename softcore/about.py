"""What this copy of softcore is and runs on."""

from __future__ import annotations

from softcore import kernels
from softcore.threads import get_num_threads


def info() -> dict[str, object]:
    """What this copy of softcore is and runs on.

    Returns
    -------
    dict
        ``version``; ``isa``, the instruction set in use, and ``isa_available``, those to choose from by ``SOFTCORE_ISA``;
        ``threads``, what a large call would use now; ``openmp``, the OpenMP runtime; ``opencl``, the OpenCL
        devices, best first.

    Examples
    --------
    >>> import softcore as sc
    >>> sc.info()["isa"] in sc.info()["isa_available"]
    True
    """
    from softcore import __version__, opencl

    try:
        devices = opencl.devices()
    except RuntimeError:  # after a fork
        devices = []
    return {
        "version": __version__,
        "isa": kernels.core.isa,
        "isa_available": kernels.available(),
        "threads": get_num_threads(),
        "openmp": kernels.core.openmp_runtime(),
        "opencl": [f"{device.platform.name}: {device.name.strip()}" for device in devices],
    }
