"""Draws the progress bar of a fit, for terminals and log files."""

import sys
from types import TracebackType

from tqdm import tqdm

from jax_gsplat_depth.fit._log import StepReport
from jax_gsplat_depth.fit._rate import StepRate

# Seconds between two lines in a log file, where a bar cannot overwrite itself.
_LOG_INTERVAL = 10.0

# Weight of the newest step in the running means.
_NEWEST = 0.05


class Progress:
    """A bar with steps per second, running loss, running training PSNR and number of Gaussians.

    Steps per second are those of ``metrics.json``, see ``StepRate``; not the rate of the bar, which
    ends as a mean that compiling is part of.
    """

    def __init__(self, steps: int) -> None:
        """Show the empty bar.

        Args:
            steps: Number of steps in all.
        """
        to_terminal = sys.stderr.isatty()
        self._loss: float | None = None
        self._psnr = 0.0
        self._rate = StepRate()
        self._bar = tqdm(
            total=steps,
            unit="step",
            desc="fit",
            mininterval=0.1 if to_terminal else _LOG_INTERVAL,
            maxinterval=_LOG_INTERVAL,
            bar_format=(
                "{desc} {percentage:3.0f}% |{bar:20}| {n_fmt}/{total_fmt} "
                "[{elapsed}<{remaining}{postfix}]"
            ),
        )

    def __enter__(self) -> "Progress":
        """Return the bar itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave the last state of the bar on the screen."""
        self.close()

    def step(self, report: StepReport) -> None:
        """Count one finished step; the first need not be number 1."""
        if self._loss is None:
            self._bar.initial = self._bar.n = report.step - 1
            self._loss, self._psnr = report.loss, report.psnr
        self._loss += _NEWEST * (report.loss - self._loss)
        self._psnr += _NEWEST * (report.psnr - self._psnr)
        self._rate.count()
        rate = self._rate.per_second()
        self._bar.set_postfix_str(
            ("" if rate is None else f"{rate:.1f} step/s, ")
            + f"loss {self._loss:.4f}, PSNR {self._psnr:.2f} dB, {report.n_gaussians} Gaussians",
            refresh=False,
        )
        self._bar.update()

    def close(self) -> None:
        """Leave the last state of the bar on the screen; more calls do nothing."""
        self._bar.close()
