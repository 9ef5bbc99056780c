"""Runs some inputs of the fuzzer for every reader; ``fuzz/fuzz_readers.py`` runs any number."""

import pytest
from fuzz.fuzz_readers import Fuzzer, run
from fuzz.targets import TARGETS

N = {10: 150, 2: 40, 1: 20}
"""Inputs by the share of a target."""


@pytest.mark.parametrize("name", TARGETS)
def test_a_result_or_one_clear_error(tmp_path, name):
    fuzzer = Fuzzer(name, tmp_path / name)
    count = N[fuzzer.target.share]
    outcomes = dict(run(fuzzer, range(count)))
    failures = {i: found for i, found in outcomes.items() if found not in ("read", "refused")}
    assert not failures
    assert set(outcomes.values()) == {"read", "refused"}
