"""The options that the tasks beside segmentation share: which methods, how they are trained, what cannot be."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

import tyro

import upsampling as up
from experiments import methods, training
from experiments.session import Session
from experiments.settings import Job
from experiments.trials import Programs, Watch

_Folder = Annotated[Path | None, tyro.conf.arg(metavar="DIR")]


@dataclass(frozen=True)
class Comparison(Session):
    """Methods to compare, all else equal. A task's own options are a dataclass that adds its own, and `trained`."""

    methods: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME")] = ()
    """Upsampling methods to compare: names of the library, your own as package.module:Class, or all."""
    against: str = "bilinear"
    """The method that all others are held against; the first one where it is not among them."""
    seeds: Annotated[tuple[int, ...], tyro.conf.arg(metavar="N")] = (0, 1, 2, 3, 4)
    """One training per method and seed; differences between methods are paired by seed."""
    seeds_at_once: int = 1
    """Seeds of a method that are trained together, in one program: for accelerators, which one small network leaves
    idle; a CPU is slower so. Results differ from those of single seeds by rounding."""
    variants: tuple[str, ...] = ("features", "small")
    """Named settings that methods take where they have them, before their authors' own."""
    features: int = 16
    """Channels that the upsampler sees."""
    steps: int = 500
    """Training steps of each network."""
    batch: int = 16
    """Examples per step."""
    learning_rate: Annotated[tuple[float, ...], tyro.conf.arg(metavar="X")] = (3e-3,)
    """Highest learning rate. Of several, each method takes its own: the best on validation, mean over the first two
    seeds."""
    weight_decay: float = 0.0
    """Weight decay of AdamW."""
    precision: training.Precision = "float32"
    """What the network computes in."""
    out: _Folder = None
    """A new folder for the results; by default one below runs/ named by date and time."""

    def trained(self) -> list[str]:
        """The designs that train."""
        raise NotImplementedError

    def methods_of(self, design: str) -> tuple[str, ...]:
        """The methods that a design compares, in order."""
        return self.methods

    def seeds_of(self, design: str) -> tuple[int, ...]:
        """The seeds of a design."""
        return self.seeds

    def rates_of(self, design: str) -> tuple[float, ...]:
        """The learning rates that a design's trainings are tried with."""
        return self.learning_rate

    def jobs(self) -> list[Job]:
        """All trainings, in the order in which they are done."""
        return [
            Job(design, method, seed) for design in self.trained() for seed in self.seeds for method in self.methods
        ]

    def load(self) -> Any:
        """The data."""
        raise NotImplementedError

    def options(self, rate: float, validations: int, **more: Any) -> training.Options:
        """How to train at a learning rate."""
        return training.Options(self.steps, rate, self.weight_decay, self.precision, validations, **more)

    def resolved(self) -> Self:
        """The options with `all` spelled out, checked.

        Raises:
          ValueError: an option that is out of range or does not go with another.
        """
        chosen = tuple(up.nn.available()) if self.methods == ("all",) else self.methods
        against = self.against
        for name in chosen:
            methods.find(name)
        methods.find(against, "--against")
        if chosen and against not in chosen:
            if against != type(self).against:
                raise ValueError(
                    f"--against {against}: must be one of the methods compared: {' '.join(map(str, chosen))}."
                )
            against = chosen[0]
        config = dataclasses.replace(self, methods=chosen, against=against)
        for field in dataclasses.fields(config):
            value = getattr(config, field.name)
            if not isinstance(value, tuple) or field.name in ("variants", "redo"):
                continue
            if not value or len(set(value)) < len(value):
                given = " ".join(map(str, value)) or "none"
                raise ValueError(f"--{_option(field.name)}: give at least one, each once; got {given}.")
        for name in ("features", "steps", "batch", "seeds_at_once"):
            config.at_least(name, 1)
        for seed in config.seeds:
            if seed < 0:
                raise ValueError(f"--seeds {seed}: must be at least 0.")
        for rate in config.learning_rate:
            if not rate > 0:
                raise ValueError(f"--learning-rate {rate:g}: must be above 0.")
        if not config.weight_decay >= 0:
            raise ValueError(f"--weight-decay {config.weight_decay:g}: must be at least 0.")
        config.check_session()
        return config

    def at_least(self, name: str, least: int) -> None:
        """Raises ValueError for an option below `least`."""
        if getattr(self, name) < least:
            raise ValueError(f"--{_option(name)} {getattr(self, name)}: must be at least {least}.")


class Stage(NamedTuple):
    """What all trainings of one design and seed share where nothing is trained beforehand: their number of steps."""

    steps: int


def stage(
    job: Job, config: Comparison, data: Any, place: Path, programs: Programs, watch: Watch, network: Any = None
) -> Stage:
    """The stage of a task that trains nothing beforehand."""
    return Stage(config.steps)


def sentences(settings: Mapping[str, Any], what: str) -> list[str]:
    """A run's settings in words; `what` names what a batch holds."""
    rates = " or ".join(f"{rate:g}" for rate in settings["learning_rate"])
    found = [
        f"AdamW with a learning rate of {rates} at most and weight decay {settings['weight_decay']:g}, "
        f"{settings['steps']} steps; batches of {settings['batch']} {what}; computed in {settings['precision']}.",
        f"The upsampler sees {settings['features']} channels.",
        *seeds_together(settings),
    ]
    if settings["variants"]:
        found.append(f"A method takes the first of these variants that it has: {', '.join(settings['variants'])}.")
    return found


def seeds_together(settings: Mapping[str, Any]) -> list[str]:
    """What there is to say where several seeds were trained in one program; runs of old do not tell."""
    count = settings.get("seeds_at_once", 1)
    if count == 1:
        return []
    return [
        f"Up to {count} seeds of a method took their steps together, in one program; of its time, operations and "
        "memory each one's share is told."
    ]


def _option(field: str) -> str:
    return field.replace("_", "-")
