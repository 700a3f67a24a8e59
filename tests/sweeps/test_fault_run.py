"""What the benchmark of faults counts as a test of them."""

import importlib.util
from collections import Counter

import pytest

from cft_lab.config import PROJECT_ROOT


@pytest.mark.parametrize(("each", "kinds", "enough"), [(2, 6, True), (1, 12, True), (3, 5, False), (1, 11, False), (0, 8, False)])
def test_fewer_than_twelve_faults_of_six_kinds_are_no_success(each: int, kinds: int, enough: bool) -> None:
    spec = importlib.util.spec_from_file_location("slurm_faults", PROJECT_ROOT / "benchmarks" / "slurm_faults.py")
    assert spec is not None
    assert spec.loader is not None
    faults = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(faults)
    assert (faults.too_few(Counter({str(kind): each for kind in range(kinds)})) is None) == enough
