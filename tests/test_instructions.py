"""No op executes over a tenth more instructions than benchmarks/instructions.json says, where callgrind can count them."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "instructions.py"
spec = importlib.util.spec_from_file_location("instructions", SCRIPT)
counting = importlib.util.module_from_spec(spec)
spec.loader.exec_module(counting)

ONE = "softmax float32 64 x 1000"
CALL = f"softmax, {counting.SMALL}"

pytestmark = pytest.mark.skipif(counting.missing() is not None, reason=str(counting.missing()))


def comparable(name):
    small = name == CALL
    if counting.kept(name) is None:
        pytest.skip(
            f"compared with nothing: this is a build by {counting.build(small)}, counts are kept of {'; '.join(counting.builds(small))}. "
            "Those of this build are kept by: python benchmarks/instructions.py --write"
        )


@pytest.fixture(scope="module")
def found():
    return counting.instructions()


def test_ops(found):
    comparable(ONE)
    assert counting.grown({name: count for name, count in found.items() if counting.SMALL not in name}) == {}


def test_small_calls(found):
    comparable(CALL)
    assert counting.grown({name: count for name, count in found.items() if counting.SMALL in name}) == {}


def test_every_case_has_a_count(found):
    comparable(ONE)
    assert [name for name in found if counting.SMALL not in name and counting.kept(name) is None] == []


def test_an_eighth_more_work_is_seen():
    comparable(ONE)
    assert list(counting.grown(counting.instructions(f"^{ONE}$", rows=72))) == [ONE]
