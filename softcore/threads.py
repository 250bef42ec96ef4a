"""How many threads a call may use: OpenMP's own limit, CPU affinity, cgroup quotas, and what the caller asked for.

The kernels ask :func:`get_num_threads` only for work that is worth dividing, so it can afford to look afresh each time: affinity and
threadpoolctl's limits may change while the process runs.
"""

from __future__ import annotations

import gc
import os
import sys
from contextvars import ContextVar

from softcore.kernels import cpu_base

#: More threads than any machine has processors for: such a count is a mistake, and OpenMP ends the process that it cannot serve.
MOST = 4096

# The modules of all instruction sets share one OpenMP runtime; the base module is there on every machine.
_serial_build = cpu_base.openmp_runtime().startswith("none")
# What OpenMP allowed when softcore was imported. threadpoolctl lowers it later, and only then does it bind an explicit count.
_initial_limit = cpu_base.max_threads()
_explicit: int | None = None
# The innermost count of `with num_threads(...)` in this Python thread, and the enclosing one: (count, enclosing) or None.
_scope: ContextVar[tuple | None] = ContextVar("softcore.num_threads", default=None)
_quota: int | None = None
_quota_read = False
_in_forked_child = False
#: Whether this process was forked from one that had used an OpenCL device.
devices_lost = False


def get_num_threads() -> int:
    """The number of threads a large call made now, from this Python thread, would use.

    Returns
    -------
    int
        The count of the innermost :class:`num_threads` context, else that of :func:`set_num_threads`, else the least of what
        OpenMP allows (``OMP_NUM_THREADS``), the CPUs this thread may run on and the cgroup's CPU quota. A limit set through
        threadpoolctl binds in every case. It is 1 in a process made by ``os.fork`` and in a build without OpenMP.

    Examples
    --------
    >>> import softcore as sc
    >>> with sc.num_threads(1):
    ...     sc.get_num_threads()
    1
    """
    if _serial_build or _in_forked_child:
        return 1
    limit = cpu_base.max_threads()
    scope = _scope.get()
    count = _explicit if scope is None else scope[0]
    if count is None:
        return _default(limit)
    return min(count, limit) if limit < _initial_limit else count


def set_num_threads(n: int) -> None:
    """Set the number of threads that calls from every Python thread use from now on.

    Parameters
    ----------
    n : int
        From 1 to 4096. It may be more than the number of CPUs.

    Raises
    ------
    TypeError
        If `n` is not an integer.
    ValueError
        If `n` is less than 1 or more than 4096.

    See Also
    --------
    num_threads : the same for a ``with`` block, in one Python thread.

    Examples
    --------
    >>> import softcore as sc
    >>> before = sc.get_num_threads()
    >>> sc.set_num_threads(1)
    >>> sc.get_num_threads()
    1
    >>> sc.set_num_threads(before)
    """
    global _explicit
    _explicit = _count("set_num_threads", n)


class num_threads:
    """Use `n` threads within a ``with`` block, in the Python thread that runs it. Blocks nest.

    Parameters
    ----------
    n : int
        From 1 to 4096.

    Examples
    --------
    >>> import numpy as np
    >>> import softcore as sc
    >>> with sc.num_threads(2):
    ...     y = sc.softmax(np.zeros((1000, 4)))
    """

    def __init__(self, n: int):
        self.n = _count("num_threads", n)

    def __enter__(self) -> num_threads:
        _scope.set((self.n, _scope.get()))
        return self

    def __exit__(self, *exception) -> None:
        _scope.set(_scope.get()[1])

    def __repr__(self) -> str:
        return f"num_threads({self.n})"


def _count(function, n):
    # An integer is what has __index__, as for range(); True has it too, but is a mistake here.
    if isinstance(n, bool) or not hasattr(type(n), "__index__"):
        raise TypeError(f"{function}: n is a {type(n).__name__}, it must be an int")
    n = n.__index__()
    if not 1 <= n <= MOST:
        raise ValueError(f"{function}: n is {n}, it must be from 1 to {MOST}")
    return n


def _default(limit):
    global _quota, _quota_read
    if not _quota_read:
        _quota, _quota_read = cgroup_quota(), True
    if hasattr(os, "sched_getaffinity"):
        limit = min(limit, len(os.sched_getaffinity(0)))
    return limit if _quota is None else min(limit, _quota)


def cgroup_quota(membership: str = "/proc/self/cgroup", root: str = "/sys/fs/cgroup") -> int | None:
    """The whole CPUs that the process's cgroup may use, rounded up, or None where there is no quota.

    Parameters
    ----------
    membership : str
        File that names the process's cgroups, a line each: ``0::/path`` (version 2) or ``4:cpu,cpuacct:/path`` (version 1).
    root : str
        Where the cgroup file systems are mounted.
    """
    quotas = []
    for line in _read(membership).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            # A hybrid layout mounts version 2 below the root.
            mounts, quota = [root, os.path.join(root, "unified")], _quota_v2
        elif "cpu" in controllers.split(","):
            mounts, quota = [os.path.join(root, controllers), os.path.join(root, "cpu")], _quota_v1
        else:
            continue
        # A quota on any ancestor binds. In a container the path may be the host's and not exist here, but the mount itself is
        # then the process's own cgroup; ".." stands for an ancestor outside the container.
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for mount in mounts:
            for depth in range(len(parts) + 1):
                quotas.append(quota(os.path.join(mount, *parts[:depth])))
    return min((q for q in quotas if q is not None), default=None)


def _quota_v2(group):
    quota, _, period = _read(os.path.join(group, "cpu.max")).partition(" ")
    return _cpus(quota, period)


def _quota_v1(group):
    return _cpus(_read(os.path.join(group, "cpu.cfs_quota_us")), _read(os.path.join(group, "cpu.cfs_period_us")))


def _cpus(quota, period):
    """ceil(quota / period); None for "max", -1, or a file that is missing or makes no sense."""
    try:
        quota, period = int(quota), int(period)
    except ValueError:
        return None
    return -(-quota // period) if quota > 0 and period > 0 else None


def _read(path):
    try:
        with open(path) as file:
            return file.read().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _after_fork():
    # The threads of the parent's OpenMP team do not exist in the child, and libgomp waits for them for ever: stay serial. Nor do those of
    # a device: who has arrays of pyopencl has used one, though perhaps not through softcore.
    global _in_forked_child, devices_lost
    _in_forked_child = True
    arrays = sys.modules.get("pyopencl.array")
    devices_lost = devices_lost or (arrays is not None and any(issubclass(type(a), arrays.Array) for a in gc.get_objects()))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
