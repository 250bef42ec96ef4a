"""Print the path of the PoCL that pip installs, if it compiles for this processor and runs what it compiled; else say why not.

One that is older than the processor may crash or hang, so it is asked in a process of its own.
"""

import glob
import os
import subprocess
import sys
from importlib.util import find_spec

PROBE = "import numpy, softcore; assert softcore.softmax(softcore.opencl.to_device(numpy.zeros(4, numpy.float32))).get().sum() == 1"


def working(seconds=120):
    """Its path, or None; and what became of the trial."""
    spec = find_spec("pyopencl")
    found = glob.glob(os.path.join(os.path.dirname(spec.origin), ".libs", "libpocl-*.so")) if spec else []
    if not found:
        return None, "pip installed none"
    environment = {**os.environ, "OCL_ICD_VENDORS": found[0]}
    try:
        done = subprocess.run([sys.executable, "-c", PROBE], env=environment, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return None, f"it takes longer than {seconds} seconds"
    if done.returncode:
        return None, done.stderr.strip().rpartition("\n")[2] or f"it ends with {done.returncode}"
    return found[0], "it works"


if __name__ == "__main__":
    path, why = working()
    if path:
        print(path)
    else:
        print(f"the tests on PoCL as pip installs it are left out: {why}", file=sys.stderr)
