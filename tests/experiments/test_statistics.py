"""Intervals cover what they say, equal methods are seldom told apart, and letters, fronts and errors are right."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from experiments import statistics
from experiments.statistics import MOST_SEEDS, Sums, best, crossed_bootstrap, estimate, groups, paired, pareto


def slack(rate, studies):
    """Three binomial standard errors: how far a simulated rate may lie from the true one."""
    return 3 * math.sqrt(rate * (1 - rate) / studies)


# A measure as sums


@pytest.fixture(scope="module")
def counts():
    rng = np.random.default_rng(0)
    union = rng.integers(1, 50, size=(3, 6, 4)) * (rng.random((3, 6, 4)) > 0.4)
    return rng.binomial(union, 0.7), union


@pytest.mark.parametrize("seeds", [None, [2], [0, 0, 1], np.array([True, False, True])])
@pytest.mark.parametrize("images", [None, [5], [1, 1, 3], [True] * 5 + [False]])
def test_a_value_is_the_mean_ratio_over_the_classes_there_are(counts, seeds, images):
    overlap, union = counts
    expected = []
    for seed in np.arange(3)[slice(None) if seeds is None else seeds]:
        chosen = np.arange(6)[slice(None) if images is None else images]
        pairs = [(sum(overlap[seed, i, c] for i in chosen), sum(union[seed, i, c] for i in chosen)) for c in range(4)]
        expected.append(np.mean([a / b for a, b in pairs if b]))
    np.testing.assert_allclose(Sums(overlap, union).value(seeds, images), expected, rtol=1e-12)


def test_a_mean_over_images_leaves_out_those_without_a_figure():
    distance = np.array([[[3.0], [np.nan], [5.0]]])
    sums = Sums(distance, np.isfinite(distance))
    assert sums.value() == [4]
    assert np.isnan(sums.value(images=[1])).all()  # no class at all
    assert sums.numerator[0, 1, 0] == 0


def test_what_an_image_has_beside_its_own_denominator_counts_in_the_sum():
    """Wrong area in an image without a boundary is still wrong area."""
    assert Sums([[[2], [6]]], [[[0], [4]]]).value() == [2]


@pytest.mark.parametrize(
    ("numerator", "denominator", "match"),
    [
        (np.ones((2, 3)), np.ones((2, 3)), r"one shape \(seeds, images, classes\).*got \(2, 3\) and \(2, 3\)"),
        (np.ones((2, 3, 1)), np.ones((2, 3, 2)), r"got \(2, 3, 1\) and \(2, 3, 2\)"),
        (np.ones((0, 3, 1)), np.ones((0, 3, 1)), r"got \(0, 3, 1\)"),
        (np.ones((1, 1, 1)), -np.ones((1, 1, 1)), r"denominator must be finite and at least 0; got -1"),
        (np.ones((1, 1, 1)), np.full((1, 1, 1), np.nan), r"denominator .* got nan"),
        (np.full((1, 1, 1), np.nan), np.ones((1, 1, 1)), r"numerator must be finite .* got nan"),
        (np.full((1, 1, 1), np.inf), np.zeros((1, 1, 1)), r"numerator must be finite .* got inf"),
    ],
)
def test_sums_say_what_is_wrong_with_them(numerator, denominator, match):
    with pytest.raises(ValueError, match=match):
        Sums(numerator, denominator)


@pytest.mark.parametrize("given", [[], [3], [-1], [0.5], [[0]], [True, False], 1])
@pytest.mark.parametrize("axis", ["seeds", "images"])
def test_a_choice_must_be_there(given, axis):
    with pytest.raises(ValueError, match=rf"Sums.value: {axis} must be .* in 0 to 2"):
        Sums(np.ones((3, 3, 1)), np.ones((3, 3, 1))).value(**{axis: given})


# Student's t over seeds


def test_paired_is_scipys_paired_t():
    rng = np.random.default_rng(1)
    values = {name: rng.normal(0.4, 0.02, size=7) for name in ("a", "b", "c")}
    found = paired(values, against="b")
    assert list(found) == ["a", "c"]
    for name, row in found.items():
        oracle = stats.ttest_rel(values[name], values["b"])
        low, high = oracle.confidence_interval(0.95)
        assert row.mean == pytest.approx((values[name] - values["b"]).mean(), rel=1e-12)
        assert (row.mean - row.half_width, row.mean + row.half_width) == pytest.approx((low, high), rel=1e-10)
        assert row.p == pytest.approx(oracle.pvalue, rel=1e-10)
        assert row.seeds == 7


def test_an_estimate_is_scipys_t_interval():
    values = [0.3, 0.5, 0.35, 0.42]
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    found = estimate(values)
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx((low, high), rel=1e-12)
    assert math.isnan(estimate([0.3]).half_width)
    with pytest.raises(ValueError, match=r"got shape \(0,\)"):
        estimate([])


def test_the_interval_over_five_seeds_covers_the_true_difference_in_95_of_100_studies():
    rng, studies, effect = np.random.default_rng(2), 2000, 0.03
    shared = rng.normal(0.4, 0.1, size=(studies, 5))  # what a seed does to both methods, which pairing removes
    ours = shared + effect + rng.normal(0, 0.02, size=shared.shape)
    found = [paired({"a": a, "b": b}, against="b")["a"] for a, b in zip(ours, shared, strict=True)]
    covered = np.mean([abs(row.mean - effect) <= row.half_width for row in found])
    assert abs(covered - 0.95) < slack(0.95, studies)
    assert np.mean([row.half_width for row in found]) < 0.03  # unpaired it would be about 0.15


@pytest.mark.parametrize("ratio", [0.07, 0.2, 0.5, 1, 3, 50])
def test_the_seeds_needed_are_the_least_whose_interval_leaves_out_0(ratio):
    """`ratio` is the mean over the standard deviation."""
    difference = np.array([-1, 0, 1]) + ratio
    needed = paired({"a": difference, "b": np.zeros(3)}, against="b")["a"].seeds_needed
    assert stats.t.ppf(0.975, needed - 1) / math.sqrt(needed) < ratio
    assert needed == 2 or stats.t.ppf(0.975, needed - 2) / math.sqrt(needed - 1) >= ratio


def test_where_seeds_needed_have_no_answer():
    values = {
        "against": [0.25, 0.5],
        "same": [0.25, 0.5],
        "even": [0.5, 0.25],
        "sure": [0.5, 0.75],
        "faint": [0, 0.751],
    }
    found = paired(values, against="against")
    assert found["same"] == (0, 0, 1, 2, None)
    assert found["even"].seeds_needed is None
    assert found["sure"] == (0.25, 0, 0, 2, 2)
    assert found["faint"].seeds_needed == MOST_SEEDS


def test_one_seed_has_no_interval():
    row = paired({"a": [0.5], "b": [0.4]}, against="b")["a"]
    assert row.mean == pytest.approx(0.1)
    assert math.isnan(row.half_width)
    assert math.isnan(row.p)
    assert (row.seeds, row.seeds_needed) == (1, None)


def test_rounding_is_no_difference():
    values = {"a": np.array([0.3, 0.6, 0.7]), "b": np.array([0.1 * 3, 0.2 * 3, 0.1 * 7])}
    assert (values["a"] != values["b"]).any()
    assert paired(values, against="b")["a"] == (0, 0, 1, 3, None)
    assert groups(values) == {"a": "a", "b": "a"}


# The crossed bootstrap


def simulated(rng, shape, studies, effect, seeds=0.0, images=0.0, pairs=0.0):
    """One difference to a method that is 0, of many studies at once, from normal spreads."""
    n, i = shape
    for _ in range(studies):
        yield Sums(
            effect
            + rng.normal(0, seeds, size=(n, 1, 1))
            + rng.normal(0, images, size=(1, i, 1))
            + rng.normal(0, pairs, size=(n, i, 1)),
            np.ones((n, i, 1)),
        )


@pytest.mark.parametrize(
    ("spreads", "measured"),
    [
        ({"images": 0.02}, 0.935),  # roughly the nominal 95 %
        ({"seeds": 0.02}, 0.835),  # percentiles over five seeds are too narrow
        ({"seeds": 0.02, "images": 0.02 * math.sqrt(40 / 5)}, 0.912),
        ({"pairs": 0.02}, 0.997),
    ],
)
def test_the_crossed_bootstrap_covers_as_often_as_its_docstring_says(spreads, measured):
    """Many studies share a call, and so its draws, which is fast and near enough to independent."""
    rng, shape, effect, studies = np.random.default_rng(3), (5, 40), 0.03, 1500
    covered = 0
    for seed in range(15):
        sums = dict(enumerate(simulated(rng, shape, studies // 15, effect, **spreads)))
        found = crossed_bootstrap(sums | {"0": Sums(np.zeros((5, 40, 1)), np.ones((5, 40, 1)))}, "0", seed=seed)
        covered += sum(row.low <= effect <= row.high for row in found.values())
    assert abs(covered / studies - measured) < slack(measured, studies)


def test_the_crossed_bootstrap_is_the_plain_one_done_with_indices(counts):
    """Against draws of seeds and images by index through `value`, from another stream: so within Monte Carlo error."""
    overlap, union = np.tile(counts[0], (1, 4, 1)), np.tile(counts[1], (1, 4, 1))
    rng = np.random.default_rng(4)
    ours, base = Sums(rng.binomial(union, 0.8), union), Sums(overlap, union)
    found = crossed_bootstrap({"base": base, "ours": ours}, "base", draws=4000)["ours"]
    plain = []
    for _ in range(4000):
        seeds, images = rng.integers(3, size=3), rng.integers(24, size=24)
        plain.append(np.mean(ours.value(seeds, images) - base.value(seeds, images)))
    low, high = np.percentile(plain, [2.5, 97.5])
    assert found.mean == pytest.approx(np.mean(ours.value() - base.value()), rel=1e-12)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.06 * (high - low))


def test_draws_are_paired_and_the_same_for_the_same_seed(monkeypatch):
    rng = np.random.default_rng(5)
    union = np.full((4, 12, 2), 100)
    base = rng.integers(10, 80, size=union.shape)
    sums = {"ours": Sums(base + 10, union), "base": Sums(base, union), "noisy": Sums(base[::-1], union)}
    found = crossed_bootstrap(sums, "base", draws=300)
    assert list(found) == ["ours", "noisy"]
    assert found["ours"] == pytest.approx((0.1, 0.1, 0.1))  # the base varies by far more, and cancels
    assert found["noisy"].low < -0.01 < 0.01 < found["noisy"].high
    assert crossed_bootstrap(sums, "base", draws=300) == found
    assert crossed_bootstrap(sums, "base", draws=300, seed=1)["noisy"] != found["noisy"]
    monkeypatch.setattr(statistics, "_BLOCK", 12 * 7)  # 7 draws at a time: the memory changes, the draws don't
    blocked = crossed_bootstrap(sums, "base", draws=300)
    assert blocked["noisy"] == pytest.approx(found["noisy"], rel=1e-9)


def test_one_seed_or_one_image_leaves_the_other_to_be_drawn():
    numerator = np.arange(8.0).reshape(1, 8, 1)
    for shape in ((1, 8, 1), (8, 1, 1)):
        base, ours = Sums(np.zeros(shape), np.ones(shape)), Sums(numerator.reshape(shape), np.ones(shape))
        found = crossed_bootstrap({"base": base, "ours": ours}, "base")["ours"]
        assert found.low < found.mean == 3.5 < found.high
    assert crossed_bootstrap({"base": base}, "base") == {}


def test_draws_without_the_only_class_are_left_out():
    denominator = np.zeros((2, 3, 1))
    denominator[:, 0] = denominator[1, 1] = 1  # the first seed has the class in one image of three
    base, ours = Sums(0 * denominator, denominator), Sums(0.5 * denominator, denominator)
    assert crossed_bootstrap({"base": base, "ours": ours}, "base")["ours"] == pytest.approx((0.5, 0.5, 0.5))


def test_the_crossed_bootstrap_says_what_is_wrong():
    ones = Sums(np.ones((2, 3, 1)), np.ones((2, 3, 1)))
    for against, options, match in (
        ("c", {}, "against 'c' is not among the methods: a, b"),
        ("a", {"draws": 39}, "draws must be .* at least 40; got 39"),
        ("a", {"draws": 1e3}, "draws must be a whole number .* got 1000.0"),
        ("a", {"seed": -1}, "seed must be .* got -1"),
    ):
        with pytest.raises(ValueError, match=match):
            crossed_bootstrap({"a": ones, "b": ones}, against, **options)
    with pytest.raises(ValueError, match=r"same seeds, images and classes; got .*'b': \(2, 2, 1\)"):
        crossed_bootstrap({"a": ones, "b": Sums(np.ones((2, 2, 1)), np.ones((2, 2, 1)))}, "a")
    empty = Sums(np.ones((2, 3, 1)), np.array([[[1]] * 3, [[0]] * 3]))
    with pytest.raises(ValueError, match="b has no value for seed 1"):
        crossed_bootstrap({"a": ones, "b": empty}, "a")


# Grouping


def test_holms_adjustment_is_the_published_one():
    """R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")."""
    np.testing.assert_allclose(statistics._holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(statistics._holm(np.array([0.9, 0.6])), [1, 1])


def study(rng, means, seeds):
    shared = rng.normal(0.4, 0.1, size=seeds)
    return {str(i): shared + mean + rng.normal(0, 0.01, size=seeds) for i, mean in enumerate(means)}


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_equal_methods_are_told_apart_in_at_most_5_of_100_studies(seeds):
    rng, studies = np.random.default_rng(6), 1000
    false = np.mean([len(set(groups(study(rng, [0] * 5, seeds)).values())) > 1 for _ in range(studies)])
    assert 0.02 < false < 0.05 + slack(0.05, studies)  # and the level is used, not thrown away


def test_equal_methods_stay_together_where_others_differ():
    """Two pairs of equals far apart: no pair of equals is told apart, and all others are."""
    rng, studies = np.random.default_rng(7), 1000
    false = power = 0
    for _ in range(studies):
        letters = groups(study(rng, [0, 0, 0.2, 0.2], seeds=6))
        false += letters["0"] != letters["1"] or letters["2"] != letters["3"]
        power += all(not set(letters[a]) & set(letters[b]) for a in "01" for b in "23")
    assert false / studies < 0.05 + slack(0.05, studies)
    assert power / studies > 0.99


def test_the_best_is_named_where_the_evidence_holds():
    rng, studies = np.random.default_rng(8), 500
    named = [best(study(rng, [0, 0.01, 0.1], seeds=8)) for _ in range(studies)]
    assert np.mean(["2" in names for names in named]) > 0.99
    assert np.mean([names == ("2",) for names in named]) > 0.95  # power: seven spreads of the difference away
    near = [best(study(rng, [0, 0.1, 0.1], seeds=8)) for _ in range(studies)]
    assert np.mean([set(names) == {"1", "2"} for names in near]) > 0.9


NOISE = np.array([1.0, -1, 1, -1, 0, 0])
WOBBLE = np.array([0, 0, 1.0, -1, 1, -1])


@pytest.mark.parametrize(
    ("values", "letters"),
    [
        ({"one": [0.0, 1, 2]}, {"one": "a"}),
        ({"low": NOISE, "high": WOBBLE + 100}, {"high": "a", "low": "b"}),
        # Neighbours overlap, the ends do not.
        ({"c": NOISE, "b": WOBBLE + 1, "a": 1.2 * NOISE + 2.2}, {"a": "a", "b": "ab", "c": "b"}),
        # The worst is too unsteady to be told from anything; the other two are steady.
        (
            {"steady": NOISE / 9 + 2, "less": WOBBLE / 9, "wild": 9 * NOISE - 1},
            {"steady": "a", "less": "b", "wild": "ab"},
        ),
    ],
)
def test_letters_by_hand(values, letters):
    assert groups(values) == letters
    assert list(groups(values)) == list(letters)


def test_letters_and_best_follow_the_better_side():
    values = {"low": NOISE, "high": WOBBLE + 100, "middle": WOBBLE[::-1] + 50}
    assert groups(values) == {"high": "a", "middle": "b", "low": "c"}
    assert list(groups(values, lower_is_better=True).items()) == [("low", "a"), ("middle", "b"), ("high", "c")]
    assert best(values) == ("high",)
    assert best(values, lower_is_better=True) == ("low",)


def test_a_method_told_apart_from_none_above_may_be_the_best():
    values = {"steady": NOISE / 9 + 2, "less": WOBBLE / 9, "wild": 9 * NOISE - 1}
    assert best(values) == ("steady", "wild")


def test_one_seed_tells_nothing_apart():
    values = {"a": [1.0], "b": [2.0], "c": [300.0]}
    assert groups(values) == {"c": "a", "b": "a", "a": "a"}
    assert best(values) == ("c", "b", "a")


def test_a_stricter_level_tells_less_apart():
    values = {"a": NOISE + 2.2, "b": WOBBLE}
    assert groups(values, alpha=0.05) == {"a": "a", "b": "b"}
    assert groups(values, alpha=1e-4) == {"a": "a", "b": "a"}


def test_letters_are_the_largest_sets_of_which_no_two_are_told_apart(monkeypatch):
    """Any graph of told-apart pairs, against every subset looked at."""
    rng = np.random.default_rng(9)
    for _ in range(60):
        upper = np.triu(rng.random((6, 6)) < rng.random(), 1)
        apart = upper | upper.T
        monkeypatch.setattr(statistics, "_told_apart", lambda *_, apart=apart: (list("uvwxyz"), apart))
        letters = groups({})
        found = {
            letter: {i for i, name in enumerate(letters) if letter in letters[name]}
            for letter in set().union(*letters.values())
        }
        free = [
            set(each)
            for size in range(1, 7)
            for each in itertools.combinations(range(6), size)
            if not apart[np.ix_(each, each)].any()
        ]
        largest = [each for each in free if not any(each < other for other in free)]
        assert sorted(map(sorted, found.values())) == sorted(map(sorted, largest))
        assert [sorted(found[letter]) for letter in sorted(found)] == sorted(
            map(sorted, largest)
        )  # in order of the mean
        assert all("".join(sorted(own)) == own for own in letters.values())


def test_many_letters_stay_single_and_distinct():
    names = [statistics._letter(place) for place in range(100)]
    assert len(set(names)) == 100
    assert "".join(names[:4] + names[26:28] + names[52:54]) == "abcdABαβ"
    assert all(len(name) == 1 for name in names)


@pytest.mark.parametrize("function", [lambda values: paired(values, "a"), groups, best])
@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"a": [1.0, 2], "b": [1.0]}, r"one value per seed, the same seeds for all; got .*'b': \(1,\)"),
        ({"a": [], "b": []}, r"one value per seed.*got .*'a': \(0,\)"),
        ({"a": 1.0, "b": 2.0}, r"one value per seed.*got .*'a': \(\)"),
        ({}, r"one value per seed.*got \{\}"),
        ({"a": [1.0, 2], "b": [1.0, np.nan]}, r"the value of b must be finite; got \[ 1\. nan\]"),
    ],
)
def test_values_must_be_one_per_seed(function, values, match):
    with pytest.raises(ValueError, match=match):
        function(values)


def test_other_errors_name_what_was_given():
    with pytest.raises(ValueError, match="paired: against 'x' is not among the methods: a"):
        paired({"a": [1.0]}, against="x")
    for function in (groups, best):
        for alpha in (0, 1, 5, math.nan):
            with pytest.raises(ValueError, match=f"{function.__name__}: alpha must be between 0 and 1; got {alpha}"):
                function({"a": [1.0]}, alpha=alpha)


# The front


def test_the_front_is_what_nothing_beats():
    rng = np.random.default_rng(10)
    names = [f"m{i}" for i in range(40)]
    cost = dict(zip(names, rng.integers(0, 8, size=40).tolist(), strict=True))
    quality = dict(zip(names, rng.integers(0, 8, size=40).tolist(), strict=True))
    for lower, sign in ((False, 1), (True, -1)):
        expected = {
            n
            for n in names
            if not any(
                (cost[o] <= cost[n] and sign * quality[o] > sign * quality[n])
                or (cost[o] < cost[n] and sign * quality[o] >= sign * quality[n])
                for o in names
            )
        }
        found = pareto(cost, quality, lower_is_better=lower)
        assert set(found) == expected
        assert [cost[name] for name in found] == sorted(cost[name] for name in found)


def test_the_front_by_hand():
    cost = {"dear": 9, "cheap": 1, "even": 4, "twin": 4, "bad": 5}
    quality = {"dear": 0.9, "cheap": 0.2, "even": 0.5, "twin": 0.5, "bad": 0.4}
    assert pareto(cost, quality) == ("cheap", "even", "twin", "dear")
    assert pareto(cost, quality, lower_is_better=True) == ("cheap",)
    assert pareto({"a": 1}, {"a": 0.5}) == ("a",)


def test_the_front_says_what_is_wrong():
    with pytest.raises(ValueError, match=r"same methods.*got a, b and a"):
        pareto({"a": 1, "b": 2}, {"a": 1})
    with pytest.raises(ValueError, match="at least one; got none and none"):
        pareto({}, {})
    with pytest.raises(ValueError, match="pareto: cost of b must be finite; got nan"):
        pareto({"a": 1, "b": math.nan}, {"a": 1, "b": 2})
    with pytest.raises(ValueError, match="pareto: quality of a must be finite; got inf"):
        pareto({"a": 1, "b": 2}, {"a": math.inf, "b": 2})
