"""Keeps one report for each step of a fit, and writes them to ``loss.csv``."""

import csv
import dataclasses
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class StepReport:
    """What one finished step says about itself.

    Attributes:
        step: Number of the step, counted from 1.
        loss: Value of the loss before the step's update.
        psnr: PSNR in dB of the training view, before the step's update.
        n_gaussians: Number of Gaussians alive.
        parts: The terms of the loss by name; they sum to ``loss``, but for rounding.
    """

    step: int
    loss: float
    psnr: float
    n_gaussians: int
    parts: dict[str, float]


def write_csv(reports: list[StepReport], path: Path) -> None:
    """Write one line for each step; the columns after ``n_gaussians`` are the terms of the loss."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "loss", "psnr", "n_gaussians", *reports[0].parts])
        for report in reports:
            row = [report.step, report.loss, report.psnr, report.n_gaussians]
            writer.writerow([*row, *report.parts.values()])
