"""What a run's page says in sentences: its designs, settings, machine, and what stays undecided."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments import results, tasks
from experiments.report import edge
from experiments.settings import kind, named_stride
from experiments.statistics import MOST_SEEDS

Results = Mapping[str, Any]

# What is true of a data set and bounds what its intervals say.
_BOUNDS = {"brain": "All test slices come from one head, a template of many: no interval here speaks for patients."}


def bounds(found: Results) -> str:
    """What no interval of these data speaks for."""
    general = "Images count as independent; where several come from one source, no interval speaks for other sources."
    return _BOUNDS.get(found["data"]["name"], general)


def verdict(found: Results) -> list[str]:
    """What the run supports, for the head of the page."""
    return [typeset(sentence) for sentence in results.verdict(found) or _analytic_verdict(found["analytic"])]


def _analytic_verdict(analytic: Results | None) -> list[str]:
    """What a run without training found."""
    if not analytic or not analytic["methods"]:
        return []
    names, edges = edge.by_shift(analytic), {name: m["edges"] for name, m in analytic["methods"].items()}
    first, last = names[0], names[-1]
    return [
        f"Enlarging by {analytic['stride']}, {first} moves a straight edge least: by {edges[first]['rms']:.2f} pixels "
        f"(RMS over angles and places), {edges[first]['worst']:.2f} at most.",
        *([f"{last} moves it most: by {edges[last]['rms']:.2f} pixels."] if len(names) > 1 else []),
    ]


def title(found: Results, design: str) -> str:
    """A design's heading."""
    stride = named_stride(design)
    return tasks.of_results(found).words.titles[kind(design)] + (f", factor {stride}" if stride else "")


def undecided(of: Results, primary: str) -> list[str]:
    """Sentences on the methods that cannot be told from the one compared to, and on the seeds that would be needed."""
    letters, against = of["groups"][primary], of["against"]
    same = {
        results.shown_name(name, method): method["paired"][primary]["seeds_needed"]
        for name, method in of["methods"].items()
        if primary in method["paired"] and set(letters[name]) & set(letters[against])
    }
    if not same or len(of["seeds"]) < 2:
        return []
    alone = [name for name, needed in same.items() if needed is not None and needed <= len(of["seeds"])]
    more = [
        f"{name} {MOST_SEEDS} or more" if needed >= MOST_SEEDS else f"{name} about {needed}"
        for name, needed in same.items()
        if needed is not None and name not in alone
    ]
    sentences = [f"Not told apart from {against}: {', '.join(same)}."]
    if alone:
        sentences.append(
            f"The intervals of {', '.join(alone)} leave 0 out; among so many comparisons they may do so by chance."
        )
    if more:
        sentences.append(f"Seeds needed for that, were mean and spread to stay as they are: {', '.join(more)}.")
    return sentences


def command(config: Results) -> list[str]:
    """The words of the run's command, with every setting that is not the default: it repeats the run elsewhere."""
    if not config:
        return []
    task = tasks.named(config.get("task", "segmentation"))
    default = task.settings()
    words = ["python", "-m", "experiments", task.name]
    for name, value in config.items():
        usual = getattr(default, name, None)
        usual = list(usual) if isinstance(usual, tuple) else usual
        if name in ("task", "out", "resume", "date") or value is None or value == usual:
            continue
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        elif name in ("path", "classes"):
            words += [f"--{option}", Path(value).name]  # where the folder lies is of one machine
        else:
            words += [f"--{option}", *map(str, value if isinstance(value, (list, tuple)) else [value])]
    return words


def machines(timing: Results) -> list[str]:
    """What the times were measured on, with the versions."""
    found = [job["machine"] for of in timing.values() for method in of.values() for job in method.values()]
    told = []
    for m in found:
        device = f"{m['cores']} cores" if m["platform"] == "cpu" else f"{m['devices']} × {m['device']}"
        told.append(f"{device} ({m['processor']}), JAX {m['jax']}, Python {m['python']}")
    return list(dict.fromkeys(told))


def typeset(text: str) -> str:
    """Minus signs in place of hyphens before numbers, and no line broken beside ±."""
    return re.sub(r"(?<![\w-])-(?=[\d.])", "−", text).replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}")
