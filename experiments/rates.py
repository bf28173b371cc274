"""Each method's own learning rate: of those offered, the one that does best on validation images."""

from collections.abc import Mapping

import numpy as np

from experiments.designs import Outcome
from experiments.results import Divergence
from experiments.settings import Job, Segmentation
from experiments.tasks.segmentation import PRIMARY

TRIALS = 2  # seeds with which every rate is tried

Trained = Mapping[tuple[Job, float], Outcome | Divergence]


def wanted(config: Segmentation, job: Job, found: Trained) -> tuple[float, ...]:
    """The rates to train a job with: all of them for the first seeds, then its method's own."""
    return config.rates_of(job.design) if _is_trial(config, job) else (best(config, job, found),)


def count(config: Segmentation, job: Job) -> int:
    """How many rates a job is trained with."""
    return len(config.rates_of(job.design)) if _is_trial(config, job) else 1


def best(config: Segmentation, job: Job, found: Trained) -> float:
    """The rate with the best mean over the trials on validation images; of equals, the first.

    One that diverged is worse than any that did not.
    """
    rates = config.rates_of(job.design)
    if len(rates) == 1:
        return rates[0]

    def quality(rate: float) -> float:
        trials = [found[job._replace(seed=seed), rate] for seed in config.seeds_of(job.design)[:TRIALS]]
        if any(isinstance(of, Divergence) for of in trials):
            return -np.inf
        return float(np.mean([outcome.result["validation"][-1][PRIMARY] for outcome in trials]))

    return max(rates, key=quality)


def _is_trial(config: Segmentation, job: Job) -> bool:
    return job.seed in config.seeds_of(job.design)[:TRIALS]
