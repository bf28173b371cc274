"""The page of a run: one self-contained file that can be mailed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from experiments import files
from experiments.data import Dataset
from experiments.report import figures


def write(
    path: Path,
    *,
    results: Mapping[str, Any],
    machine: Mapping[str, Any],
    table: Sequence[Mapping[str, str]],
    best: Mapping[str, int],
    data: Dataset,
    predictions: Mapping[str, Sequence[np.ndarray]],
) -> Path:
    """Writes the page of a segmentation run.

    Args:
      path: where to.
      results: what results.json holds.
      machine: what the times were measured on.
      table: rows of the table; `best` names the best row of a column.
      data: the data set, for the pictures.
      predictions: of each method, the label map of every test image.

    Returns:
      `path`.
    """
    pictures = [
        {
            "name": data.test.names[i],
            "source": figures.boundaries(
                data.test.examples[i],
                {method: maps[i] for method, maps in predictions.items()},
                data.ignore_index,
            ),
        }
        for i in figures.telling(data.test, predictions)
    ]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("experiments.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("template.html").render(
        results=results,
        seeds=len(next(iter(results["methods"].values()))["seeds"]),
        machine=machine,
        table=table,
        best=best,
        curves=figures.curves(results["methods"]),
        classes=figures.per_class(results),
        pictures=pictures,
    )
    files.write_text(path, page)
    return path
