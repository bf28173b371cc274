"""What upsampling methods do to a signal: `python -m experiments analyse`."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx

import upsampling as up
from experiments import console, files, methods, report, runs
from experiments.models import blocks
from experiments.report import signals
from experiments.settings import CLASSIC
from upsampling import analysis

_SIZE = 16  # pixels of the input that responses are looked at in
_COST_SIZE = 64  # of the one that costs are counted for


@dataclass(frozen=True)
class Analyse:
    """Show what upsampling methods do to a signal, without any data: responses, faults, losses and costs.

    Learned methods are shown as they are initialized. A method that follows a guide is given one without any content:
    what is left is its filter.
    """

    methods: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME")] = CLASSIC
    """Names of the library, your own as package.module:Class, or all."""
    scale: int = 2
    """The factor."""
    features: int = 16
    """Channels."""
    variants: tuple[str, ...] = ("features",)
    """Named settings that methods take where they have them, before their authors' own."""
    seed: int = 0
    """Of the first values."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """A new folder for table, figures and page; by default one below runs/ named by date and time."""


def prepare(command: Analyse) -> tuple[Analyse, dict[str, up.nn.Method]]:
    """Checks everything that can be checked before.

    Raises:
      ValueError, OSError: what was asked for cannot be done; nothing is left behind.
    """
    names = tuple(up.nn.available()) if command.methods == ("all",) else command.methods
    if not names or len(set(names)) < len(names):
        raise ValueError(f"--methods: give at least one, each once; got {' '.join(names) or 'none'}.")
    found = {name: methods.find(name) for name in names}
    for option, number, least in (("scale", command.scale, 2), ("features", command.features, 1)):
        if number < least:
            raise ValueError(f"--{option} {number}: must be at least {least}.")
    runs.refuse_existing(command.out)
    return command, found


def analyse(prepared: tuple[Analyse, Mapping[str, up.nn.Method]]) -> None:
    """Describes every method; writes results.json, the figures and the page, and prints the table."""
    command, chosen = prepared
    described = {}
    with console.run_progress(len(chosen)) as progress:
        for name, method in chosen.items():
            with progress.job(name, 1) as step:
                described[name] = describe(command, name, method)
                step(1, 0.0)
    settings = {name: getattr(command, name) for name in ("scale", "features", "variants", "seed")}
    place = runs.create(command.out, "analyse", settings)
    found = files.write_json(place / "results.json", {"settings": settings, "methods": described})
    console.table(f"Upsampling by {command.scale}", signals.brief(found))
    page = report.write_analysis(place / "report.html", found)
    console.say(f"Report: {page}")


def describe(command: Analyse, name: str, method: up.nn.Method) -> dict[str, Any]:
    """Plain numbers: a method's response, its faults, what it sees, loses and costs."""
    scale, features, variant = command.scale, command.features, methods.variant_of(name, command.variants)
    layer = method.create(features, scale, rngs=nnx.Rngs(command.seed), variant=variant)
    upsample = functools.partial(_call, layer, method.uses_guide, scale)
    response = analysis.impulse_response(upsample, features, scale, size=_SIZE)
    waves = np.linspace(0, scale / 2, 25 * scale + 1)
    found = analysis.describe(upsample, features, scale, size=_SIZE)
    x = jax.ShapeDtypeStruct((1, _COST_SIZE, _COST_SIZE, features), jnp.float32)
    guide = jax.ShapeDtypeStruct((1, _COST_SIZE * scale, _COST_SIZE * scale, features), jnp.float32)
    cost = analysis.cost(layer, x, *([guide] if method.uses_guide else []))
    lost = None
    if not cost.parameters:  # what a layer loses before it is trained says nothing
        one = lambda x: upsample(jnp.broadcast_to(x, (*x.shape[:2], features)))[..., :1]  # noqa: E731
        lost = analysis.round_trip(one, scale, size=_SIZE).lost
    return {
        "family": method.family,
        "paper": method.paper,
        "variant": variant,
        "uses_guide": method.uses_guide,
        **found._asdict(),
        "faults": None if cost.parameters else found.faults(),  # what a layer does before it is trained is chance
        "receptive_field": blocks.receptive_field(name, variant, features, scale),
        "lost": lost,
        "parameters": cost.parameters,
        "multiply_adds_per_pixel": cost.multiply_adds / (_COST_SIZE * scale) ** 2,
        "operations_per_pixel": cost.expected_operations / (_COST_SIZE * scale) ** 2,
        "counted": cost.operations / cost.expected_operations if cost.expected_operations else None,
        "disagreement": cost.disagreement,
        "intensity": cost.intensity,
        "traffic": cost.bytes_moved / cost.bytes_needed,
        "temporaries": cost.temporary_bytes / cost.bytes_needed,
        "frequencies": waves.tolist(),
        "response": np.abs(analysis.frequency_response(response, scale, waves)).tolist(),
    }


def _call(layer: Callable[..., jax.Array], guided: bool, scale: int, x: jax.Array) -> jax.Array:
    """With a batch axis, as networks call their layers."""
    height, width, features = x.shape
    guide = [jnp.zeros((1, height * scale, width * scale, features))] if guided else []
    return layer(x[None], *guide)[0]


COMMANDS: dict[type, tuple[Callable, Callable]] = {Analyse: (prepare, analyse)}
