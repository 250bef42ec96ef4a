"""Builds one extension module per instruction set out of the same kernels. Everything else is in pyproject.toml.

SOFTCORE_OPENMP=0 builds without threads, as does a compiler that has no OpenMP.
"""

import os
import platform
import subprocess
import sysconfig
import tempfile
from pathlib import Path

import numpy as np
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import SetupError

KERNELS = Path("softcore/kernels")

# Nothing here may let the compiler reorder sums, assume that NaN does not occur, or flush subnormals; integers wrap around. The first flag takes back what
# CFLAGS may have allowed. -g0 takes back the -g that Python was built with: it doubles the time to compile, and the modules are
# eighteen times the size.
FLAGS = ["-fno-fast-math", "-g0", "-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-fwrapv", "-fvisibility=hidden"]

# The levels of the x86-64 psABI; any other machine has the base module alone, for whatever its compiler takes as given. Four short vectors
# make one of 64 bytes there, and what -O3 does to that takes a third longer to compile and is no faster: softmax along the first axis 0.7
# times as fast, argmax of half types 0.5 times.
X86_64 = platform.machine().lower() in ("x86_64", "amd64")
MARCH = {"base": ["-march=x86-64-v2", "-O2"], "avx2": ["-march=x86-64-v3"], "avx512": ["-march=x86-64-v4"]} if X86_64 else {"base": ["-O2"]}

OPENMP = os.environ.get("SOFTCORE_OPENMP", "1") != "0"


class build_kernels(build_ext):
    """Asks the compiler what it can do before giving it the kernels."""

    def initialize_options(self):
        super().initialize_options()
        self.parallel = min(len(MARCH), os.cpu_count() or 1)

    def build_extensions(self):
        if not self.compiles("int main() { return 0; }", "-std=c++17"):
            raise SetupError(f"softcore needs a C++17 compiler, and {self.cxx()[0]!r} is none: install g++ or clang++, or name one in CXX")
        if not self.compiles("#include <Python.h>"):
            version = sysconfig.get_python_version()
            raise SetupError(f"softcore needs Python.h, the headers of Python {version}: install python{version}-dev or its like")
        if OPENMP:
            if self.compiles("#include <omp.h>\nint count() { return omp_get_max_threads(); }", "-fopenmp"):
                for extension in self.extensions:
                    extension.extra_compile_args.append("-fopenmp")
                    extension.extra_link_args.append("-fopenmp")
            else:
                self.warn(f"{self.cxx()[0]!r} has no OpenMP: softcore will run on one thread")
        super().build_extensions()

    def cxx(self):
        return getattr(self.compiler, "compiler_so_cxx", None) or ["c++"]

    def compiles(self, program, *flags):
        """Whether a program compiles and links to a library."""
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "program.cpp")
            source.write_text(program + "\n")
            include = {f"-I{sysconfig.get_path(name)}" for name in ("include", "platinclude")}
            command = [*self.cxx(), *include, "-fPIC", "-shared", *flags, str(source), "-o", str(Path(folder, "program.so"))]
            try:
                return subprocess.run(command, capture_output=True, check=False).returncode == 0
            except OSError:
                return False


def extension(isa, march):
    return Extension(
        f"softcore.kernels.cpu_{isa}",
        [str(KERNELS / f"cpu_{isa}.pyx")],
        include_dirs=[str(KERNELS), np.get_include()],
        depends=sorted(str(path) for pattern in ("*.h", "*.pxi", "*.pxd") for path in KERNELS.glob(pattern)),
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
        extra_compile_args=[*FLAGS, *march],
        language="c++",
    )


setup(
    ext_modules=cythonize([extension(isa, march) for isa, march in MARCH.items()], language_level=3, include_path=[str(KERNELS)]),
    cmdclass={"build_ext": build_kernels},
    # What was compiled without OpenMP must not be taken, next time, for what was compiled with it.
    options={"build": {"build_base": "build" if OPENMP else "build/serial"}},
)
