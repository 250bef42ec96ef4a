"""How many instructions a call of each op executes. Unlike its time, nothing else that runs on the machine changes the number.

    python benchmarks/instructions.py                     # count, and compare with benchmarks/instructions.json
    python benchmarks/instructions.py --case "^softmax"   # of the cases whose name matches
    python benchmarks/instructions.py --write             # keep what was counted

Valgrind's callgrind counts one call of each case, after one that does not count, on one thread, by the avx2 kernels: it knows no AVX-512.
Compilers differ by more than a regression does, so each has counts of its own; and so has, for calls on 16 numbers, each Cython, Python
and NumPy. Caches and memory do not show in instructions: those are what benchmarks/suite is for. `make test` makes the comparison.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from functools import cache, partial
from pathlib import Path

KEPT = Path(__file__).with_suffix(".json")
TOLERANCE = 0.1

# What runs in the process that callgrind watches, so that nothing but the call itself is counted.
COUNTER = r"""
#include <valgrind/callgrind.h>
void watch(void) { CALLGRIND_START_INSTRUMENTATION; }
void count(void *(*run)(void *), void (*drop)(void *), void *call, const char *name)
{
    drop(run(call));  // so that what a small call allocates has just been freed, whatever ran before
    CALLGRIND_ZERO_STATS;
    void *result = run(call);
    CALLGRIND_DUMP_STATS_AT(name);
    drop(result);
}
"""

# The C library fills and copies by instructions that repeat, which count once a byte, from a length on that differs between processors.
BYTES_AT_ONCE = "glibc.cpu.hwcaps=-ERMS,-FSRM"

HEADS = (2, 160, 64)
SMALL = "a call on 16"


def calls(rows=64):
    """(name, a call, how many elements it takes). `rows` is for those who want more work done under the name of less."""
    import numpy as np

    import softcore as sc

    def aligned(a):
        """A copy that starts a cache line: what a kernel does at the ends of a row depends on where they lie."""
        if not isinstance(a, np.ndarray):
            return a
        room = np.empty(a.nbytes + 64, np.uint8)
        start = -room.ctypes.data % 64
        copy = room[start : start + a.nbytes].view(a.dtype).reshape(a.shape)
        copy[...] = a
        return copy

    def call(op, dtype, shape, axis=-1):
        options = {"axis": axis} if "axis" in op.options else {}
        x, function = 3 * np.random.default_rng(0).standard_normal(shape), getattr(sc, op.name)
        arguments = [aligned(a) for a in op.inputs(x.astype(dtype), np.random.default_rng(0), **options)]
        results = function(*arguments, **options)
        out = tuple(aligned(np.asarray(y)) for y in results) if isinstance(results, tuple) else aligned(np.asarray(results))
        return partial(function, *arguments, **options, out=out)

    for op in sc.reference.OPS.values():
        for dtype in ("float32", "float64", "float16"):
            if op.family == "attention":
                yield f"{op.name} {dtype} 2 x 160 x 64", call(op, dtype, HEADS), 2 * 160 * 64
            else:
                yield f"{op.name} {dtype} 64 x 1000", call(op, dtype, (rows, 1000)), 64 * 1000
        if "axis" in op.options:
            yield f"{op.name} float32 64 x 1000 axis 0", call(op, "float32", (64, 1000), 0), 64 * 1000
        if "axis" in op.options:
            yield f"{op.name} float32 6000 x 10", call(op, "float32", (6000, 10)), 6000 * 10
    x = np.zeros(16, np.float32)
    for name, arguments in {"softmax": (x,), "max": (x,), "relu": (x,), "softmax_backward": (x, x)}.items():
        yield f"{name}, {SMALL}", partial(getattr(sc, name), *arguments), 1


def count(library, pattern, rows):
    """In the process that callgrind watches: each call, under its name, after one that does not count."""
    import softcore as sc

    counter, python = ctypes.PyDLL(library), ctypes.pythonapi
    gc.disable()  # a collection would count for the call in which it falls
    with sc.num_threads(1):  # while they are made as well: a second thread, once it was there, would count while it waits for work
        made = [case for case in calls(rows) if re.search(pattern, case[0])]
        for _, call, _ in made:
            call()
        counter.watch()
        for name, call, elements in made:
            counter.count(python.PyObject_CallNoArgs, python.Py_DecRef, ctypes.py_object(call), f"{name}|{elements}".encode())


def instructions(pattern="", rows=64):
    """{name: instructions an element}; of the calls on 16, instructions."""
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "counter.c"), Path(folder, "counter.so")
        source.write_text(COUNTER)
        subprocess.run(["cc", "-O1", "-fPIC", "-shared", source, "-o", library], check=True)
        watch = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={folder}/out"]
        work = [sys.executable, __file__, "--count", library, "--case", pattern, "--rows", str(rows)]
        environment = {**os.environ, "SOFTCORE_ISA": "avx2", "PYTHONHASHSEED": "0", "GLIBC_TUNABLES": BYTES_AT_ONCE}
        run = subprocess.run([*watch, *work], env=environment, capture_output=True, text=True, check=False)
        if run.returncode:
            raise RuntimeError(run.stderr)
        return dict(sorted(map(read, Path(folder).glob("out.*"))))


def read(dump):
    """The name and the count in a file of callgrind."""
    text = dump.read_text()
    name, elements = re.search(r"^desc: Trigger: Client Request: (.*)\|(\d+)$", text, re.MULTILINE).groups()
    return name, round(int(re.search(r"^totals: (\d+)", text, re.MULTILINE)[1]) / int(elements), 3)


@cache
def build(small=False):
    """What counts depend on: the compiler of the kernels; those of small calls, on what makes the call as well."""
    import numpy as np

    from softcore.kernels import cpu_avx2

    module = Path(cpu_avx2.__file__).read_bytes()
    clang, gcc = (re.search(said + rb" (\d+)\.\d+", module) for said in (rb"clang version", rb"GCC: \([^)]*\)"))
    compiler = f"clang {clang[1].decode()}" if clang else f"gcc {gcc[1].decode()}"
    if not small:
        return compiler
    cython = re.search(rb"cython_(\d+_\d+)_", module)[1].decode().replace("_", ".")
    python, numpy = (".".join(version.split(".")[:2]) for version in (platform.python_version(), np.__version__))
    return f"{compiler}, Cython {cython}, Python {python}, NumPy {numpy}"


def kept(name):
    """The count that a case is compared with; None where there is none of this build."""
    return json.loads(KEPT.read_text()).get(build(name.endswith(SMALL)), {}).get(name)


def builds(small=False):
    """Those of which counts are kept."""
    return sorted(name for name in json.loads(KEPT.read_text()) if ("Python" in name) == small)


def missing():
    """Why nothing can be counted here; None where it can."""
    import softcore as sc

    if "avx2" not in sc.info()["isa_available"]:
        return "compared with nothing: the avx2 kernels, whose instructions are counted, do not run here"
    return None if shutil.which("valgrind") else "compared with nothing: valgrind, which counts, is not installed"


def grown(found):
    """{name: by how much} of the cases that take over a tenth more instructions than they did."""
    ratios = {name: number / kept(name) for name, number in found.items() if kept(name)}
    return {name: round(ratio - 1, 3) for name, ratio in ratios.items() if ratio > 1 + TOLERANCE}


def keep(found):
    counts = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    for name, number in found.items():
        counts.setdefault(build(name.endswith(SMALL)), {})[name] = number
    KEPT.write_text(json.dumps(counts, indent=0, sort_keys=True) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", default="", metavar="REGEX", help="only the cases whose name matches")
    parser.add_argument("--write", action="store_true", help="keep the counts")
    parser.add_argument("--count", metavar="LIBRARY", help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=int, default=64, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.count:
        return count(chosen.count, chosen.case, chosen.rows)
    if missing():
        raise SystemExit(missing())
    found = instructions(chosen.case)
    for name, number in found.items():
        change = f"{number / kept(name) - 1:>+8.1%}" if KEPT.exists() and kept(name) else ""
        print(f"{name:<60}{number:>12.2f}{change}")
    if chosen.write:
        keep(found)
    return None


if __name__ == "__main__":
    main()
