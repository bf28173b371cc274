"""A run's outcome as arrays and figures, for notebooks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments import results
from experiments.data import Dataset
from experiments.report import drawing, page
from experiments.settings import Job
from experiments.trials import Outcome


@dataclass(frozen=True)
class Result:
    """What `study.run` returns.

    Attributes:
      results: what a run's results.json holds.
      timing: what its timing.json holds.
      data: what was trained and measured on.
      outcomes: of each job (design, method, seed) its figures, its sums per image, and its label maps.
      folder: the run's folder, or None where none was asked for.
    """

    results: Mapping[str, Any]
    timing: Mapping[str, Any]
    data: Dataset
    outcomes: Mapping[Job, Outcome]
    folder: Path | None

    @property
    def verdict(self) -> list[str]:
        """What the run supports, in sentences."""
        return results.verdict(self.results)

    def values(self, design: str, measure: str | None = None) -> dict[str, np.ndarray]:
        """A measure of each method, `(seeds,)`, the first one by default: the mean over classes on the test images."""
        measure = measure or self.results["primary"]
        return {
            name: np.array([seed["figures"][measure]["mean"] for seed in method["seeds"].values()], float)
            for name, method in self.results["designs"][design]["methods"].items()
        }

    def predictions(self, design: str, method: str, seed: int) -> Sequence[np.ndarray]:
        """The label map `(H, W)` of every test image, or whatever else the task makes."""
        return self.outcomes[Job(design, method, seed)].predictions

    def table(self, design: str) -> list[dict[str, str]]:
        """The rows of the table that a terminal shows; `pandas.DataFrame` takes them."""
        return results.rows(self.results, self.timing, design)[0]

    def figures(self) -> dict[str, Figure]:
        """Every figure of the page, by name."""
        drawn = {name: chart(drawing.WIDE) for name, chart in page.charts(self.results, self.timing).items()}
        return {name: drawing.figure(one) for name, one in drawn.items() if one}
