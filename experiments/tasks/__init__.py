"""The uses of upsampling that are studied. A task is one module that ends in `TASK`, and its line in `_MODULES`."""

import functools
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

_MODULES = (
    "experiments.designs",
    "experiments.tasks.super_resolution",
    "experiments.tasks.generation",
    "experiments.tasks.features",
)


class Measure(NamedTuple):
    """What is measured of what a network makes.

    Attributes:
      title: for tables.
      meaning: for the page: what it is, and whose definition.
      of: what computes it, where measures of a task are computed one by one; called as the task says.
      lower_is_better: distances and errors.
      brief: whether it stands in the table that a terminal shows.
    """

    title: str
    meaning: str
    of: Callable[..., Any] | None = None
    lower_is_better: bool = False
    brief: bool = False


class Picture(NamedTuple):
    """Pictures for the page that stand side by side: of each what is written below it, and `(H, W)` uint8."""

    title: str
    panels: Sequence[tuple[str, np.ndarray]]


@dataclass(frozen=True)
class Words:
    """What a task's page and verdict say that no other's does. A sentence may be a function of the design's name.

    Attributes:
      heading: what the study asks; the page's title.
      where: a design's kind to how a verdict's sentence begins.
      better: what a better method did, before "than".
      best: the need of whoever wants the best figure, for `choose`.
      unit: what the test set consists of.
      ones: the same in a sentence: "for other images like these 16".
      beyond: what no interval speaks for.
      titles: a design's kind to its heading.
      design: a design's name and the settings to what it does.
      settings: the settings to sentences on them.
      form: a design's name and the settings to what of these its name must say: "with a thin decoder", or nothing.
      curve: heading of the section of the curve that is measured beside the measures.
      curve_says: what it shows.
      level: what its height is.
      across: what it runs over.
      signed: whether its height may be below 0; else it is drawn on a logarithmic scale, with differences beside it.
      pictures: heading of the pictures' section, and what they show.
      panel: the width of each, in the page's pixels.
    """

    heading: str
    where: Mapping[str, str]
    better: str
    best: str
    unit: str
    beyond: str
    titles: Mapping[str, str]
    design: Callable[[str, Mapping[str, Any]], str]
    settings: Callable[[Mapping[str, Any], set[str]], list[str]]
    curve: str
    curve_says: str
    level: str
    across: str
    ones: str = "images"
    form: Callable[[str, Mapping[str, Any]], str] = lambda design, settings: ""
    signed: bool = False
    pictures: tuple[str, str] = ("", "")
    panel: int = 150


@dataclass(eq=False)
class Task:
    """A use of upsampling, as the engine (`study`, `results`, `rates`, `report`, `choose`) takes it.

    Attributes:
      name: of the command, and in a run's files.
      settings: the command's options, a dataclass; `comparison.Comparison` is a base for it.
      resolve: the options to the same with everything filled in and checked.
      check: raises ValueError for options that do not go with the data.
      measures: by name; all are evaluated on every test image.
      primary: the measure that methods are ranked by.
      followed: measures told after each training, and followed while it goes on.
      bins: edges of the bins of the curve that is measured beside them.
      stage: what all trainings of one design and seed share; see `designs.stage`.
      trial: what one training is made of; see `designs.trial`.
      has_trunk: settings and job to whether its stage trains a trunk first, with `settings.trunk_steps`, in the folder
        that `designs.trunk_folder` tells.
      baselines: settings, design and data to what does without training: of each by name its description, its sums,
        and whether the methods' differences to it are reported.
      pictures: design, results, data and predictions by method to pictures for the page.
      words: what its page says.
    """

    name: str
    settings: type
    resolve: Callable[[Any], Any]
    measures: Mapping[str, Any]
    primary: str
    followed: tuple[str, ...]
    bins: Sequence[float]
    stage: Callable[..., Any]
    trial: Callable[..., Any]
    words: Words
    check: Callable[[Any, Any], None] = lambda config, data: None
    has_trunk: Callable[[Any, Any], bool] = lambda config, job: False
    baselines: Callable[..., Mapping[str, tuple[str, Mapping[str, Any], bool]]] | None = None
    pictures: Callable[..., list[Picture]] | None = None


@functools.cache
def known() -> tuple[Task, ...]:
    """All tasks."""
    return tuple(importlib.import_module(module).TASK for module in _MODULES)


def named(name: str) -> Task:
    """The task called `name`.

    Raises:
      ValueError: there is none.
    """
    for task in known():
        if task.name == name:
            return task
    raise ValueError(f"no task is called {name!r}. Known: {', '.join(task.name for task in known())}.")


def of(config: Any) -> Task:
    """The task whose settings these are."""
    return next(task for task in known() if type(config) is task.settings)


def of_results(found: Mapping[str, Any]) -> Task:
    """The task of a run's results; those of segmentation say none."""
    return named(found.get("task", "segmentation"))
