"""What a run found: from the outcomes of its trainings to its files, its table and its words."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from experiments import files, methods, statistics, tasks, trials
from experiments.data import Dataset
from experiments.settings import Job, conditions, kind, named_stride
from experiments.statistics import Sums
from experiments.tasks.segmentation import baseline
from experiments.trials import Outcome

Outcomes = Mapping[Job, Outcome]


class Divergence(NamedTuple):
    """Where a training, or the trunk that it needs, diverged: the step, and the loss there."""

    step: int
    loss: str
    trunk: bool

    def told(self) -> str:
        """For the terminal."""
        return f"{'its trunk ' if self.trunk else ''}diverged at step {self.step} (loss {self.loss})"


def collect(
    folder: Path,
    config: Any,
    data: Any,
    outcomes: Outcomes,
    analytic: Mapping[str, Any] | None,
    diverged: Mapping[Job, Divergence] = MappingProxyType({}),
    network: str | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Writes results.json, timing.json and results.csv; returns what the first two hold.

    What diverged is listed. Its seed is left out for all methods where none of them got through, as when their trunk
    diverged; else its method is, since methods are compared on the same seeds.

    `network` names a user's own network.

    Times are kept apart so that two runs with the same seed give the same results.json, byte for byte.
    """
    task = tasks.of(config)
    results = {
        **({} if task.name == "segmentation" else {"task": task.name}),
        "data": {
            "name": data.name,
            "description": data.description,
            "classes": data.classes,
            "test_images": data.test.names,
        },
        "settings": conditions(config) | ({"model": network} if network else {}),
        "against": config.against,
        "measures": {
            name: {"title": m.title, "meaning": m.meaning, "lower_is_better": m.lower_is_better}
            for name, m in task.measures.items()
        },
        "primary": task.primary,
        "baseline": baseline(data) if isinstance(data, Dataset) else None,
        "analytic": analytic,
        "designs": {
            design: _design(config, data, design, {job: o for job, o in outcomes.items() if job.design == design})
            for design in config.trained()
            if _compared(config, design, outcomes)[0]
        },
        "diverged": [{**job._asdict(), **of._asdict()} for job, of in diverged.items()],
    }
    timing: dict[str, Any] = {}
    for job, outcome in outcomes.items():
        if job.method not in results["designs"].get(job.design, {}).get("methods", ()):
            continue
        timing.setdefault(job.design, {}).setdefault(job.method, {})[str(job.seed)] = outcome.result["timing"]
    files.write_text(folder / "results.csv", _csv(results))
    return files.write_json(folder / "results.json", results), files.write_json(folder / "timing.json", timing)


def _design(config: Any, data: Any, design: str, outcomes: Outcomes) -> dict[str, Any]:
    """The figures of one design: each method's, its differences to `against`, and what can be told apart."""
    task = tasks.of(config)
    names, seeds = _compared(config, design, outcomes)
    against = config.against if config.against in names else names[0]
    by_method = {name: [outcomes[Job(design, name, seed)] for seed in seeds] for name in names}
    sums = {
        measure: {name: _joined([o.sums[measure] for o in of]) for name, of in by_method.items()}
        for measure in task.measures
    }
    values = {measure: {name: of.value() for name, of in found.items()} for measure, found in sums.items()}
    # A measure that has nothing to look at in some training (no pixel so far from a boundary) compares nothing.
    compared = [m for m in task.measures if all(np.isfinite(v).all() for v in values[m].values())]
    paired = {measure: _paired(sums[measure], values[measure], against) for measure in compared}
    found = {}
    for name, of in by_method.items():
        first, method = of[0].result, methods.find(name)
        curves = np.array([o.result["curve"] for o in of], float)
        found[name] = {
            "family": method.family,
            "paper": method.paper,
            "uses_guide": method.uses_guide,
            **{k: first[k] for k in ("variant", "learning_rate", "receptive_field", "parameters")},
            **{k: first[k] for k in ("upsampler_parameters", "operations_per_step", "temporary_bytes")},
            "summary": {m: statistics.estimate(values[m][name])._asdict() for m in task.measures},
            "paired": {m: paired[m][name] for m in compared if name in paired[m]},
            "curve": [statistics.estimate(column)._asdict() for column in curves.T],
            "seeds": {
                str(seed): {k: o.result[k] for k in ("figures", "curve", "loss", "validation")}
                for seed, o in zip(seeds, of, strict=True)
            },
        }
    ranked = {m: (values[m], {"lower_is_better": task.measures[m].lower_is_better}) for m in compared}
    return {
        "against": against,
        "seeds": seeds,
        "distances": task.bins,
        "methods": found,
        "groups": {m: statistics.groups(v, **how) for m, (v, how) in ranked.items()},
        "best": {m: _best(v, how) for m, (v, how) in ranked.items()},
        **({"baselines": _baselines(config, data, design, sums)} if task.baselines else {}),
    }


def _baselines(config: Any, data: Any, design: str, sums: Mapping[str, Mapping[str, Sums]]) -> dict[str, Any]:
    """What does without training, and how far each method is ahead of it: Student's interval, and the bootstrap's.

    A baseline is the same for every seed, so that its difference to a method is paired by seed and image as well.
    """
    task, found = tasks.of(config), {}
    for name, (description, own, compared) in task.baselines(config, design, data).items():
        seeds = len(next(iter(sums[task.primary].values())).numerator)
        same = _joined([own[task.primary]] * seeds)
        both = {name: same, **sums[task.primary]}
        ahead = _paired(both, {n: each.value() for n, each in both.items()}, name) if compared else {}
        found[name] = {
            "description": description,
            "figures": trials.figures(own, ()),
            "curve": trials.curve(own) if trials.CURVE in own else None,
            "ahead": {task.primary: ahead},
        }
    return found


def _compared(config: Any, design: str, outcomes: Outcomes) -> tuple[list[str], list[int]]:
    """The methods and seeds of a design of which every pair has an outcome."""
    methods, seeds = config.methods_of(design), config.seeds_of(design)
    seeds = [seed for seed in seeds if any(Job(design, name, seed) in outcomes for name in methods)]
    return [name for name in methods if seeds and all(Job(design, name, s) in outcomes for s in seeds)], seeds


def _joined(parts: Sequence[Sums]) -> Sums:
    """The sums of several trainings of one method, seed by seed."""
    return Sums(
        *(np.concatenate(arrays) for arrays in zip(*((p.numerator, p.denominator) for p in parts), strict=True))
    )


def _paired(sums: Mapping[str, Sums], values: Mapping[str, np.ndarray], against: str) -> dict[str, dict[str, Any]]:
    """Each other method less `against`: Student's interval over seeds, and the bootstrap's over seeds and images."""
    if len(values) < 2:
        return {}
    over_seeds = statistics.paired(values, against)
    over_both = statistics.crossed_bootstrap(sums, against)
    return {
        name: {**of._asdict(), "bootstrap_low": over_both[name].low, "bootstrap_high": over_both[name].high}
        for name, of in over_seeds.items()
    }


def _best(values: Mapping[str, np.ndarray], how: Mapping[str, bool]) -> tuple[str, ...]:
    """The methods above which none is told apart; none where the evidence tells nothing apart."""
    found = statistics.best(values, **how)
    return () if len(found) == len(values) else found


def _csv(results: Mapping[str, Any]) -> str:
    """A row per training, a column per measure and class."""
    rows = [
        ((design, method, seed), entry["figures"])
        for design, of in results["designs"].items()
        for method, outcome in of["methods"].items()
        for seed, entry in outcome["seeds"].items()
    ]
    rows += [
        ((design, name, ""), own["figures"])
        for design, of in results["designs"].items()
        for name, own in of.get("baselines", {}).items()
    ]
    if results["baseline"]:
        rows.append((("", results["baseline"]["name"], ""), results["baseline"]["figures"]))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    measures = results["measures"]
    classed = [name for name in measures if rows and rows[0][1][name]["classes"]]
    columns = [(m, name) for m in measures for name in ("mean", *(results["data"]["classes"] if m in classed else ()))]
    writer.writerow(["design", "method", "seed", *(f"{measure} {name}" for measure, name in columns)])
    for head, figures in rows:
        flat = {m: {"mean": f["mean"], **f["classes"]} for m, f in figures.items()}
        writer.writerow([*head, *(flat[measure][name] for measure, name in columns)])
    return text.getvalue()


# --- the table --------------------------------------------------------------------------------------------------------


def shown_name(name: str, outcome: Mapping[str, Any]) -> str:
    """A method's name, with the variant that was trained: its figures are not the paper's network's. Of one's own, the
    class."""
    name = name.rpartition(":")[2]
    return name if outcome["variant"] is None else f"{name} ({outcome['variant']})"


def design_name(design: str, results: Mapping[str, Any]) -> str:
    """A design's name with what of the settings it must say."""
    return f"{design} {tasks.of_results(results).words.form(design, results['settings'])}".rstrip()


def rows(
    results: Mapping[str, Any], timing: Mapping[str, Any], design: str
) -> tuple[list[dict[str, str]], dict[str, list[int]]]:
    """The table of a design: its rows, and for each column the rows that no other is told apart above."""
    of, measures, primary = results["designs"][design], results["measures"], results["primary"]
    table = []
    for name, outcome in of["methods"].items():
        seconds = [job["step_ms"] for job in timing[design][name].values() if job["step_ms"] is not None]
        difference = outcome["paired"].get(primary)
        table.append(
            {"method": shown_name(name, outcome)}
            | {f"± {of['against']}": "–" if difference is None else _signed(difference)}
            | {measure["title"]: _figure(outcome["summary"][m]) for m, measure in measures.items()}
            | {
                "group": of["groups"][primary][name],
                "sees": "{} × {}".format(*outcome["receptive_field"]),
                "rate": f"{outcome['learning_rate']:g}",
                "params": f"{outcome['parameters']:,}",
                "upsampler's": f"{outcome['upsampler_parameters']:,}",
                "Mflop/step": f"{outcome['operations_per_step'] / 1e6:,.0f}" if outcome["operations_per_step"] else "–",
                "ms/step": f"{np.median(seconds):.1f}" if seconds else "–",
                "temporaries MB": f"{outcome['temporary_bytes'] / 1e6:.1f}",
            }
        )
    names = list(of["methods"])
    best = {m["title"]: [names.index(name) for name in of["best"].get(key, ())] for key, m in measures.items()}
    for name, found in untrained(results, design).items():
        figures = {m["title"]: f"{found[key]['mean']:.3f}" for key, m in measures.items() if key in found}
        table.append(dict.fromkeys(table[0], "–") | {"method": name} | figures)
    return table, best


def untrained(results: Mapping[str, Any], design: str) -> dict[str, Mapping[str, Any]]:
    """Name and figures of what does without training, which stands below the table."""
    own = {name: of["figures"] for name, of in results["designs"][design].get("baselines", {}).items()}
    return own | ({results["baseline"]["name"]: results["baseline"]["figures"]} if results["baseline"] else {})


def brief(table: Sequence[Mapping[str, str]], task: tasks.Task) -> list[dict[str, str]]:
    """The columns that fit a terminal; the page has all."""
    first = list(table[0])[:2]
    columns = (*first, *(m.title for m in task.measures.values() if m.brief), "ms/step")
    return [{column: row[column] for column in columns} for row in table]


def _figure(summary: Mapping[str, float | None]) -> str:
    if summary["mean"] is None:
        return "–"
    digits = 4 if summary["mean"] < 0.05 else 3
    interval = "" if summary["half_width"] is None else f" ± {summary['half_width']:.{digits}f}"
    return f"{summary['mean']:.{digits}f}{interval}"


def _signed(difference: Mapping[str, float | None]) -> str:
    interval = "" if difference["half_width"] is None else f" ± {difference['half_width']:.3f}"
    return f"{difference['mean']:+.3f}{interval}"


def with_bootstrap(difference: Mapping[str, float | None]) -> str:
    """A paired difference with its interval over seeds, and the bootstrap's over seeds and images."""
    ends = ("" if difference[k] is None else f"{difference[k]:+.3f}" for k in ("bootstrap_low", "bootstrap_high"))
    return f"{_signed(difference)} (seeds and images: {' to '.join(ends)})"


def ahead(results: Mapping[str, Any], design: str) -> list[str]:
    """How far a design's methods are from each baseline that they are held against, in sentences."""
    of, sentences = results["designs"][design], []
    for name, own in of.get("baselines", {}).items():
        found = own["ahead"].get(results["primary"], {})
        told = [f"{shown_name(n, of['methods'][n])} {with_bootstrap(d)}" for n, d in found.items()]
        if told:
            title = results["measures"][results["primary"]]["title"]
            sentences.append(f"{title} less that of {name}, by seed and image: {'; '.join(told)}.")
    return sentences


def analytic_rows(methods: Mapping[str, Any]) -> list[dict[str, str]]:
    """The table of the analytic design: where edges go, in hundredths of a pixel, and what thin lines lose."""
    return [
        {
            "method": name,
            "edge moved by": f"{100 * found['edges']['bias']:+.0f}",
            "rms": f"{100 * found['edges']['rms']:.0f}",
            "worst": f"{100 * found['edges']['worst']:.0f}",
            "90° corner loses": f"{found['corners']['loss'][found['corners']['openings'].index(90)]:.1f} px²",
            **{
                f"{width:g} px lines": f"{share:.0%}"
                for width, share in zip(found["lines"]["widths"], found["lines"]["recall"], strict=True)
                if width in (2, 4)
            },
        }
        for name, found in methods.items()
    ]


# --- the verdict ------------------------------------------------------------------------------------------------------


def verdict(results: Mapping[str, Any]) -> list[str]:
    """What the run supports, in three sentences at most: what is told apart, what is not, and what it speaks for."""
    sentences = [_spoken(design, of, results) for design, of in results["designs"].items()]
    sentences += _diverged(results.get("diverged", ()))
    images, words = len(results["data"]["test_images"]), tasks.of_results(results).words
    if results["designs"]:
        sentences.append(
            f"The intervals speak for other seeds, and for other {words.ones} like these {images} of "
            f"{results['data']['name']}, not for {words.beyond}."
        )
    return sentences


def _diverged(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """What diverged, and what that leaves out."""
    sentences = []
    for design in dict.fromkeys(entry["design"] for entry in entries):
        own = [entry for entry in entries if entry["design"] == design]
        trunks = sorted({entry["seed"]: entry["step"] for entry in own if entry["trunk"]}.items())
        told = [f"the trunk of seed {seed} at step {step}" for seed, step in trunks]
        told += [
            f"{entry['method']}, seed {entry['seed']}, at step {entry['step']}" for entry in own if not entry["trunk"]
        ]
        sentences.append(
            f"Diverged and left out of the design {design}: {'; '.join(told)}. A method that diverges with one seed is "
            "compared with none."
        )
    return sentences


def _spoken(design: str, of: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    primary, words = results["primary"], tasks.of_results(results).words
    title, names, against = results["measures"][primary]["title"], list(of["methods"]), of["against"]
    lower = results["measures"][primary]["lower_is_better"]
    where = words.where[kind(design)]
    where += f", factor {named_stride(design)}" if named_stride(design) else ""
    where += f", {form}" if (form := words.form(design, results["settings"])) else ""
    if len(of["seeds"]) < 2 or len(names) < 2:
        return f"{where}, one seed or method alone supports no comparison; give several seeds and methods."
    differences = {name: of["methods"][name]["paired"][primary] for name in names if name != against}
    letters = of["groups"][primary]
    shown = {name: shown_name(name, outcome) for name, outcome in of["methods"].items()}
    # Told apart by the grouping, which holds the chance of any false claim among all pairs at 5 %.
    apart = {name: d for name, d in differences.items() if not set(letters[name]) & set(letters[against])}
    same = [shown[name] for name in differences if name not in apart]
    gain = {name: d["mean"] * (-1 if lower else 1) for name, d in apart.items()}
    better = sorted((n for n in apart if gain[n] > 0), key=lambda n: -gain[n])
    worse = sorted((n for n in apart if gain[n] < 0), key=lambda n: gain[n])
    parts = [
        f"{_listed([f'{shown[n]} ({_signed(apart[n])})' for n in some])} {word}"
        for some, word in ((better, f"{words.better} than {against}"), (worse, "worse"))
        if some
    ]
    if same:
        parts.append(f"{_listed(same)} could not be told from {against} with {len(of['seeds'])} seeds")
        parts += _among(differences.keys() - apart.keys(), of, primary, lower, shown)
    return f"{where}, by {title}: {'; '.join(parts)}."


def _among(
    same: Iterable[str], of: Mapping[str, Any], primary: str, lower: bool, shown: Mapping[str, str]
) -> list[str]:
    """Which of the methods that cannot be told from `against` are told from one another."""
    letters = of["groups"][primary]
    ordered = sorted(same, key=lambda n: of["methods"][n]["paired"][primary]["mean"] * (1 if lower else -1))
    parts = []
    for i, name in enumerate(ordered):
        behind = [shown[other] for other in ordered[i + 1 :] if not set(letters[name]) & set(letters[other])]
        if behind:
            parts.append(f"{shown[name]} is ahead of {_listed(behind)} all the same")
    return parts


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
