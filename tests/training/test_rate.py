"""Tests that steps per second are the same number in the progress bar and in the result."""

import pytest

pytest.importorskip("optax")
pytest.importorskip("tqdm")

from jax_gsplat_depth.fit import Progress, StepReport, _rate


class Clock:
    """Stands for the module ``time``; a step takes what comes next."""

    def __init__(self, seconds):
        """Begin at 0."""
        self.seconds, self.now = list(seconds), 0.0

    def perf_counter(self):
        self.now += self.seconds.pop(0)
        return self.now


# The first step compiles, another one writes a checkpoint.
STEPS = (30.0, 0.2, 0.1, 40.0, 0.2, 0.3, 0.25)
PER_SECOND = 2 / (0.2 + 0.25)


def test_one_over_the_median_without_the_first(monkeypatch):
    monkeypatch.setattr(_rate, "time", Clock(STEPS))
    rate, found = _rate.StepRate(), []
    for _ in STEPS:
        rate.count()
        found.append(rate.per_second())
    assert found == [None, *map(pytest.approx, (5, 2 / 0.3, 5, 5, 5, PER_SECOND))]


def test_the_progress_bar_shows_it(monkeypatch, capsys):
    monkeypatch.setattr(_rate, "time", Clock(STEPS))
    with Progress(len(STEPS)) as progress:
        for step in range(1, len(STEPS) + 1):
            progress.step(StepReport(step, 0.5, 20.0, 7, {}))
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.count("step/s") == 1 and f"{PER_SECOND:.1f} step/s, loss 0.5000" in last
