"""What a run's page says in sentences: its designs, settings, machine, and what stays undecided."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments import results
from experiments.report import edge
from experiments.settings import Segmentation, kind, named_stride
from experiments.statistics import MOST_SEEDS

Results = Mapping[str, Any]

_TITLES = {"frozen": "Frozen trunk", "head": "End to end", "unet": "U-Net"}
_NETWORKS = {"unet": "U-Net", "fpn": "feature pyramid network"}
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


def title(design: str) -> str:
    """A design's heading."""
    stride = named_stride(design)
    return _TITLES[kind(design)] + (f", factor {stride}" if stride else "")


def design(name: str, s: Results) -> str:
    """What a design does, and what its figures can say."""
    stride = named_stride(name) or s["stride"][0]
    if kind(name) == "frozen":
        return (
            "For each seed a trunk (a block at full resolution, a strided convolution, a small U-Net at stride "
            f"{stride}) was trained for {s['trunk_steps']} steps on labels averaged over its cells, which favor "
            f"no upsampler. On its frozen features only a 1 × 1 convolution, the upsampler by {stride} and a "
            f"1 × 1 head were trained, {s['head_steps']} steps with each method. All methods see the same features, "
            "so what differs is how they render boundaries."
        )
    if name == "head":
        return (
            f"The network of a frozen trunk, trained end to end with each method for {s['steps']} steps: a trunk at "
            f"stride {stride}, the upsampler by {stride}, and a 1 × 1 head."
        )
    after = {"full": "Two 3 × 3 convolutions follow each. ", "thin": "A 1 × 1 convolution follows each. "}
    network = _NETWORKS.get(s["model"], s["model"])
    return (
        f"The network that people use, as control: a {network}, trained for {s['steps']} steps, each "
        f"step up made by the method. {after[s['decoder']] if s['model'] == 'unet' else ''}What follows an upsampler, "
        "and the skip connections beside it, can make up for what it does."
    )


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


def settings(found: Results) -> list[str]:
    """The settings of a run as sentences."""
    s, designs = found["settings"], set(map(kind, found["designs"]))
    sentences = [
        f"AdamW with a learning rate of {_either(s['learning_rate'])} at most and weight decay {s['weight_decay']:g}; "
        f"batches of {s['batch']} crops of {s['crop']} × {s['crop']} pixels; computed in {s['precision']}."
    ]
    if "frozen" in designs:
        sentences.append(f"The heads on frozen trunks: {_either(s['head_learning_rate'])} at most.")
    if len(s["learning_rate"]) > 1 or len(s["head_learning_rate"]) > 1:
        sentences.append(
            "Each method of a design took the learning rate with the best figure on validation images, mean over the "
            "first two seeds."
        )
    if designs & {"frozen", "head"}:
        crops = f", from {s['crops']} crops whose features are computed once" if "frozen" in designs else ""
        sentences.append(f"The upsampler sees {s['features']} channels and enlarges by {_either(s['stride'])}{crops}.")
    if "unet" in designs and s["model"] in _NETWORKS:  # a user's own has none of these
        skips = {"inner": "at all levels but full resolution", "all": "at all levels", "none": "left out"}
        gate = ", gated by attention" if s["attention_gate"] else ""
        down = {"strided": "strided convolutions", "pool": "max-pooling"}[s["downsampling"]]
        sentences.append(
            f"The {_NETWORKS[s['model']]} has {s['depth']} halvings by {down}, {s['width']} channels at full "
            f"resolution and twice as many at every level below, and skip connections {skips[s['skips']]}{gate}."
        )
    if s["variants"]:
        sentences.append(f"A method takes the first of these variants that it has: {', '.join(s['variants'])}.")
    return sentences


def _either(values: Sequence[float]) -> str:
    return " or ".join(f"{value:g}" for value in values)


def command(config: Results) -> list[str]:
    """The words of the run's command, with every setting that is not the default: it repeats the run elsewhere."""
    if not config:
        return []
    default = Segmentation()
    words = ["python", "-m", "experiments", "segmentation"]
    for name, value in config.items():
        if name in ("task", "out", "resume", "date") or value is None or value == getattr(default, name, None):
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
