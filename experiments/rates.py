"""Each method's own learning rate: of those offered, the one that does best on validation images."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments import tasks
from experiments.results import Divergence
from experiments.settings import Job
from experiments.trials import Outcome

TRIALS = 2  # seeds with which every rate is tried

Trained = Mapping[tuple[Job, float], Outcome | Divergence]


def wanted(config: Any, job: Job, found: Trained) -> tuple[float, ...]:
    """The rates to train a job with: all of them for the first seeds, then its method's own."""
    return config.rates_of(job.design) if _is_trial(config, job) else (best(config, job, found),)


def together(config: Any) -> list[list[Job]]:
    """All jobs in the order in which they are trained.

    Those stand together that differ in the seed alone, and are tried with the same rates; not more than
    `config.seeds_at_once`.
    """
    found = []
    for design in config.trained():
        seeds = config.seeds_of(design)
        parts = (seeds[:TRIALS], seeds[TRIALS:]) if len(config.rates_of(design)) > 1 else (seeds,)
        for part in parts:
            for i in range(0, len(part), config.seeds_at_once):
                some = part[i : i + config.seeds_at_once]
                found += [[Job(design, method, seed) for seed in some] for method in config.methods_of(design)]
    return found


def count(config: Any, job: Job) -> int:
    """How many rates a job is trained with."""
    return len(config.rates_of(job.design)) if _is_trial(config, job) else 1


def best(config: Any, job: Job, found: Trained) -> float:
    """The rate with the best mean over the trials on validation images; of equals, the first.

    One that diverged is worse than any that did not.
    """
    rates = config.rates_of(job.design)
    if len(rates) == 1:
        return rates[0]

    task = tasks.of(config)
    sign = -1 if task.measures[task.primary].lower_is_better else 1

    def quality(rate: float) -> float:
        trials = [found[job._replace(seed=seed), rate] for seed in config.seeds_of(job.design)[:TRIALS]]
        if any(isinstance(of, Divergence) for of in trials):
            return -np.inf
        return sign * float(np.mean([outcome.result["validation"][-1][task.primary] for outcome in trials]))

    return max(rates, key=quality)


def _is_trial(config: Any, job: Job) -> bool:
    return job.seed in config.seeds_of(job.design)[:TRIALS]
