from pathlib import Path

import numpy as np
import pytest

pytest.register_assert_rewrite("pooling_calls")  # which asserts: its errors show the values, as those of test files do


@pytest.fixture(autouse=True)
def outside_the_source(monkeypatch):
    # `python -c` looks in the current folder first: from the root, the children of a test would run what is built in place
    # there, whichever build the test itself was given.
    monkeypatch.chdir(Path(__file__).parent)


@pytest.fixture
def rng():
    return np.random.default_rng(0)
