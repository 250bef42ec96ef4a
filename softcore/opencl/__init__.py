"""The OpenCL core: devices, queues, programs and launches. The kernels are the ``.cl`` files in ``softcore/kernels``.

Nothing here touches a device before it is asked to: neither importing softcore nor importing this module does. Devices are
ranked, GPUs first, and never asked about on the terminal. The environment variable ``SOFTCORE_OPENCL`` names a device or a platform
by a part of its name. Oclgrind, a simulator a thousand times slower than a device, is left out unless so named.
"""

# What ops ask of a core (``kernels.core_of``), `check` and the user: `views` and `replay` import pyopencl, and come with the first array.
from softcore.opencl.attention import attend, bias_gradients, merge_parts, sink_gradients
from softcore.opencl.launches import begun, ended, in_place, run, run_loss
from softcore.opencl.programs import OPS
from softcore.opencl.runtime import available, devices, memory_pool, queue, to_device, use
from softcore.opencl.windows import pool

__all__ = ["available", "devices", "memory_pool", "queue", "to_device", "use"]
