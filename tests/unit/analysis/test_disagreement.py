"""The rates of different decisions against loops, their intervals against the binomial law."""

import io

import numpy as np
import pytest
from rich.console import Console
from scipy.stats import binom

from deit_transfer.analysis.disagreement import (
    Decisions,
    bootstrap_intervals,
    disagreement,
)
from deit_transfer.analysis.statistics import mcnemar
from deit_transfer.paper.values import paper_matrix
from deit_transfer.report.disagreement import disagreement_table, extremes

LABELS = np.random.default_rng(0).integers(4, size=400)


def classifier(name: str, *, seed: int, errors: float) -> Decisions:
    rng = np.random.default_rng(seed)
    wrong = rng.random(len(LABELS)) < errors
    classes = np.where(wrong, rng.integers(4, size=len(LABELS)), LABELS)
    return Decisions(name=name, classes=classes, right=classes == LABELS)


@pytest.fixture(scope="module")
def three() -> list[Decisions]:
    return [classifier(name, seed=n, errors=0.2 * n) for n, name in enumerate("abc", start=1)]


def test_the_matrix_is_that_of_two_loops_over_images(three: list[Decisions]) -> None:
    facts = disagreement(three, resamples=50)

    rows = [LABELS.tolist(), *(one.classes.tolist() for one in three)]
    for a, first in enumerate(rows):
        for b, second in enumerate(rows):
            different = sum(x != y for x, y in zip(first, second, strict=True))
            assert facts["matrix"][a][b] == pytest.approx(different / 400, abs=1e-12)
    assert facts["names"] == ["ground truth", "a", "b", "c"]
    assert facts["num_images"] == 400


def test_intervals_are_those_of_the_binomial_law(three: list[Decisions]) -> None:
    facts = disagreement(three)
    # resampling images makes the number of differing ones binomial
    for a, b in ((0, 1), (1, 3), (2, 3)):
        rate, (low, high) = facts["matrix"][a][b], facts["intervals"][a][b]
        exact = binom.ppf([0.025, 0.975], 400, rate) / 400
        assert [low, high] == pytest.approx(exact, abs=0.006)
        assert facts["intervals"][b][a] == [low, high]
        assert low < rate < high


def test_the_bootstrap_repeats_itself_by_its_seed(three: list[Decisions]) -> None:
    again, same, other = (disagreement(three, resamples=60, seed=seed) for seed in (0, 0, 1))
    assert again == same
    assert again["intervals"] != other["intervals"]
    assert again["matrix"] == other["matrix"]


def test_what_never_happens_has_no_width() -> None:
    ends = bootstrap_intervals(np.zeros((1, 30), bool), resamples=20, seed=0)
    assert ends.tolist() == [[0.0, 0.0]]


def test_the_tests_compare_error_rates_of_each_pair(three: list[Decisions]) -> None:
    tests = disagreement(three, resamples=20)["tests"]
    assert [(test["a"], test["b"]) for test in tests] == [("a", "b"), ("a", "c"), ("b", "c")]
    errors = [1 - one.right.mean() for one in three]
    assert tests[1]["error_difference"] == pytest.approx(errors[0] - errors[2])
    low, high = tests[1]["error_difference_ci95"]
    assert low < tests[1]["error_difference"] < high < 0
    assert tests[1]["p_value"] == mcnemar(three[0].right, three[2].right).p_value


def test_two_that_could_not_decide_agree_and_are_wrong() -> None:
    def undecided(name: str) -> Decisions:
        return Decisions(name=name, classes=np.array([-1, 1]), right=np.array([False, True]))

    facts = disagreement([undecided("a"), undecided("b")], resamples=10)
    assert facts["matrix"][1][2] == 0
    assert facts["matrix"][0][1:] == [0.5, 0.5]


@pytest.mark.parametrize(
    "broken",
    [
        [],
        [classifier("a", seed=1, errors=0.1), classifier("a", seed=2, errors=0.1)],
        [classifier("ground truth", seed=1, errors=0.1)],
        [Decisions(name="a", classes=np.zeros(0, int), right=np.zeros(0, bool))],
        [
            classifier("a", seed=1, errors=0.1),
            Decisions(name="b", classes=np.zeros(3, int), right=np.zeros(3, bool)),
        ],
    ],
)
def test_what_cannot_be_compared_is_refused(broken: list[Decisions]) -> None:
    with pytest.raises(ValueError, match=r"classifier"):
        disagreement(broken)


def test_the_papers_matrix_is_symmetric_with_the_truth_first() -> None:
    names, rates = paper_matrix()
    assert names[0] == "ground truth"
    assert np.array_equal(np.array(rates), np.array(rates).T)
    assert not np.diag(rates).any()
    assert rates[0][1] == 0.171  # Table 4: the convnet's error
    assert rates[4][5] == 0.019  # distillation head against both


def test_tables_of_many_classifiers_fit_80_columns() -> None:
    names = [f"a_run_with_a_rather_long_name_{n}:distill" for n in range(9)]
    many = [classifier(name, seed=n, errors=0.3) for n, name in enumerate(names)]
    facts = {**disagreement(many, resamples=10), "dataset": "photos", "notes": ["a note"]}
    screen = io.StringIO()
    Console(width=80, file=screen).print(disagreement_table(facts, paper=paper_matrix()))
    text = screen.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    for number in range(1, 10):  # each has a column and a row
        assert f" {number} |" in text
        assert f"| {number} " in text
    assert f"{facts['matrix'][3][8]:.3f}" in text
    assert "The paper's Table 4" in text


def test_the_sentence_names_the_nearest_and_the_farthest() -> None:
    base = classifier("a", seed=1, errors=0.1)
    near = Decisions(name="b", classes=base.classes, right=base.right)
    far = classifier("c", seed=3, errors=0.9)
    sentence = extremes(disagreement([base, near, far], resamples=10))
    assert sentence.startswith("Most alike are a and b (rate 0.000)")
    assert " and c " in sentence
    assert extremes(disagreement([base, far], resamples=10)) == ""
