"""The page of a run: one self-contained file that can be mailed, and its figures as files beside it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from experiments import files
from experiments.data import Dataset
from experiments.report import page, signals


def write(
    path: Path,
    *,
    results: Mapping[str, Any],
    timing: Mapping[str, Any],
    data: Any,
    predictions: Mapping[str, Mapping[str, Sequence[np.ndarray]]],
) -> Path:
    """Writes the page of a run, and every figure as PNG and SVG into `figures` beside it.

    The same arguments give the same bytes; nothing on the page is looked up elsewhere.

    Args:
      path: where to; the run's settings are read from config.json beside it, where there is one.
      results: what results.json holds.
      timing: what timing.json holds.
      data: the data set, for the close-ups.
      predictions: of each design and method, the label map of every test image, or what else the task makes.

    Returns:
      `path`.
    """
    stored = path.parent / "config.json"
    config = files.read_json(stored) if stored.exists() else {}
    where = page.windows(results, data, predictions)
    variables = page.context(results, timing, data, predictions, where, config)
    page.save(results, timing, data, predictions, where, path.parent / "figures")
    return _rendered(path, "template.html" if isinstance(data, Dataset) else "task.html", variables)


def write_analysis(path: Path, found: Mapping[str, Any]) -> Path:
    """Writes the page of an analysis, and its figures as PNG and SVG into `figures` beside it.

    Args:
      path: where to.
      found: what its results.json holds.

    Returns:
      `path`.
    """
    signals.save(found, path.parent / "figures")
    return _rendered(path, "analysis.html", signals.context(found))


def _rendered(path: Path, template: str, variables: Mapping[str, Any]) -> Path:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("experiments.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    files.write_text(path, environment.get_template(template).render(**variables))
    return path
