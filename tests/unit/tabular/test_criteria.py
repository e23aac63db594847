"""Metrics of an ensemble: scikit-learn's values, and their use in selection, fits and files."""

import copy
import math

import numpy as np
import pytest
from helpers.messages import naming
from helpers.oracles import oracle
from helpers.tabular_cases import LABELS, TABLE, VALUES, N, classifier, output, regressor

import gpunn
from gpunn.tabular import criteria, ensemble
from gpunn.tabular.ensemble import softmax
from gpunn.tabular.selection import select

MANY_LABELS = np.array(["a", "b", "c"])[np.arange(N) % 3]
FITS = [
    *((classifier, y, metric) for y in (LABELS, MANY_LABELS) for metric in criteria.OF_CLASSES),
    *((regressor, VALUES, metric) for metric in criteria.OF_NUMBERS),
]


def of_classes(name):
    return criteria.get(name, classes=True)


def of_numbers(name):
    return criteria.get(name, classes=False)


# --- values -------------------------------------------------------------------------------------------------------


def oracle_of_classes(name, y, p, w):
    metrics = oracle("sklearn.metrics")
    n_out = p.shape[1]
    if name == "log_loss":
        return metrics.log_loss(y, p, labels=range(n_out), sample_weight=w)
    if name == "roc_auc":
        scores = p[:, 1] if n_out == 2 else p
        return metrics.roc_auc_score(y, scores, multi_class="ovr", average="macro", sample_weight=w)
    score = {"accuracy": metrics.accuracy_score, "balanced_accuracy": metrics.balanced_accuracy_score}[name]
    return score(y, p.argmax(axis=1), sample_weight=w)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_out", [2, 4])
@pytest.mark.parametrize("name", criteria.OF_CLASSES)
def test_metrics_of_classes_are_those_of_scikit_learn(name, n_out, weighted):
    rng = np.random.default_rng(n_out)
    y = rng.choice(n_out, 80, p=np.arange(1, n_out + 1) / np.arange(1, n_out + 1).sum())
    z = 2 * rng.normal(size=(3, 80, n_out)) + np.eye(n_out)[y]
    p = softmax(np.round(z))  # many rows have equal probabilities
    w = rng.uniform(0.1, 3, 80) if weighted else None
    found = of_classes(name).metric(p, y, w)
    np.testing.assert_allclose(found, [oracle_of_classes(name, y, each, w) for each in p], rtol=1e-12)
    np.testing.assert_allclose(of_classes(name).metric(p[1], y, w), found[1], rtol=1e-14)
    np.testing.assert_allclose(
        of_classes(name).loss(p, y, w), [oracle_of_classes("log_loss", y, each, w) for each in p], rtol=1e-12
    )


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", criteria.OF_NUMBERS)
def test_metrics_of_numbers_are_those_of_scikit_learn(name, weighted):
    metrics = oracle("sklearn.metrics")
    rng = np.random.default_rng(0)
    y, a = rng.normal(size=(50, 1)), rng.normal(size=(3, 50, 1))
    w = rng.uniform(0, 3, 50) if weighted else None
    error = {"squared_error": metrics.mean_squared_error, "absolute_error": metrics.mean_absolute_error}[name]
    expected = [error(y, each, sample_weight=w) for each in a]
    np.testing.assert_allclose(of_numbers(name).metric(a, y, w), expected, rtol=1e-12)
    np.testing.assert_array_equal(of_numbers(name).loss(a, y, w), of_numbers(name).metric(a, y, w))


def test_losses_of_classes_by_hand():
    p = np.array([[0.5, 0.5], [0.75, 0.25], [1.0, 0.0], [1.0, 0.0]])
    y = np.array([0, 1, 0, 1])
    expected = [math.log(2), math.log(4), 0, math.log(1e7)]  # the smallest probability is 1e-7
    np.testing.assert_allclose(criteria.log_losses(p, y), expected, rtol=1e-12)
    np.testing.assert_allclose(criteria.log_losses(np.stack([p, p[:, ::-1]]), y)[0], expected, rtol=1e-12)
    loss = of_classes("log_loss").loss
    np.testing.assert_allclose(loss(p, y, None), sum(expected) / 4, rtol=1e-12)
    np.testing.assert_allclose(loss(p, y, np.array([2.0, 1, 5, 0])), 4 * math.log(2) / 8, rtol=1e-12)


def test_losses_of_values_by_hand():
    y = np.array([[2.0], [-1.0]])
    outputs = np.array([[[3.0], [-1.0]], [[2.0], [1.0]]])
    np.testing.assert_array_equal(criteria.squared_errors(outputs, y), [[1, 0], [0, 4]])
    np.testing.assert_array_equal(criteria.absolute_errors(outputs, y), [[1, 0], [0, 2]])
    np.testing.assert_array_equal(of_numbers("squared_error").loss(outputs, y, None), [0.5, 2])
    np.testing.assert_array_equal(of_numbers("squared_error").loss(outputs, y, np.array([3.0, 1.0])), [0.75, 1])
    np.testing.assert_array_equal(of_numbers("absolute_error").loss(outputs, y, np.array([3.0, 1.0])), [0.75, 0.5])


def test_scores_by_hand():
    """Rows 0 to 3 are of class 0, row 4 of class 1; rows 0, 1 and 4 are classified correctly."""
    p1 = np.array([0.2, 0.5, 0.6, 0.9, 0.6])  # 0.5 is classified as 0, the first of equal probabilities
    p, y = np.stack([1 - p1, p1], axis=1), np.array([0, 0, 0, 0, 1])
    w = np.array([1.0, 1, 2, 4, 3])
    for name, expected, weighted in (
        ("accuracy", 3 / 5, 5 / 11),
        ("balanced_accuracy", (2 / 4 + 1) / 2, (2 / 8 + 1) / 2),
        ("roc_auc", 2.5 / 4, (1 + 1 + 2 / 2) / 8),  # row 4 exceeds rows 0 and 1, and equals row 2
    ):
        assert of_classes(name).metric(p, y, None) == pytest.approx(expected, rel=1e-15)
        assert of_classes(name).metric(p, y, w) == pytest.approx(weighted, rel=1e-15)


def test_classes_without_weight_do_not_count():
    p, y = np.eye(3)[[0, 0, 1]], np.array([0, 1, 1])
    assert of_classes("balanced_accuracy").metric(p, y, None) == 0.75
    assert of_classes("balanced_accuracy").metric(p, y, np.array([0.0, 1, 1])) == 0.5
    one_class = of_classes("roc_auc").metric(np.stack([p, p[::-1]]), np.zeros(3, int), None)
    np.testing.assert_array_equal(one_class, [0.5, 0.5])


# --- selection ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["accuracy", "balanced_accuracy", "roc_auc"])
def test_the_loss_decides_between_networks_of_equal_score(name):
    """All classify each row correctly; the second one has the smallest loss."""
    y = np.array([0, 1, 1, 0, 1])
    sure = np.array([0.6, 0.9, 0.8, 0.51])
    p1 = np.where(y == 1, sure[:, None], 1 - sure[:, None])
    outputs = np.stack([1 - p1, p1], axis=2)
    np.testing.assert_array_equal(of_classes(name).metric(outputs, y, None), np.ones(4))
    np.testing.assert_array_equal(select(of_classes(name), outputs, y), [0, 1, 0, 0])
    np.testing.assert_array_equal(select(of_classes(name), outputs[[0, 0]], y), [1, 0])  # the first of equal ones


def test_the_score_decides_before_the_loss():
    """The first network classifies all rows correctly, the second one has the smaller loss."""
    y = np.zeros(4, int)
    p = np.array([[0.51, 0.51, 0.51, 0.51], [0.99, 0.99, 0.99, 0.2]])
    outputs = np.stack([p, 1 - p], axis=2)
    losses = of_classes("log_loss").loss(outputs, y, None)
    assert losses[1] < losses[0]
    assert select(of_classes("log_loss"), outputs, y, rounds=1).tolist() == [0, 1]
    for name in ("accuracy", "balanced_accuracy"):
        assert select(of_classes(name), outputs, y, rounds=1).tolist() == [1, 0]
    # the average with the second network is correct in all rows for the first time at (31 · 0.51 + 0.2)/32 > 1/2
    assert select(of_classes("accuracy"), outputs, y, rounds=31).tolist() == [1, 0]
    assert select(of_classes("accuracy"), outputs, y, rounds=32).tolist() == [31 / 32, 1 / 32]


@pytest.mark.parametrize("name", [*criteria.OF_CLASSES, *criteria.OF_NUMBERS])
def test_selection_by_a_metric_improves_it(name):
    """It is at least that of the best network, and on average better than by the default metric."""
    differences = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        if name in criteria.OF_CLASSES:
            y = rng.choice(3, 60, p=[0.6, 0.3, 0.1])
            outputs = softmax(rng.normal(size=(6, 60, 3)) + 0.7 * np.eye(3)[y])
            criterion, default = of_classes(name), of_classes(None)
        else:
            y = rng.normal(size=(60, 1))
            outputs = y + rng.standard_t(2, size=(6, 60, 1))
            criterion, default = of_numbers(name), of_numbers(None)
        w = rng.uniform(0.5, 2, 60)
        by_metric, by_default = (np.tensordot(select(each, outputs, y, w), outputs, 1) for each in (criterion, default))
        sign = -1 if criterion.score is None else 1
        value = sign * criterion.metric(by_metric, y, w)
        assert value >= (sign * criterion.metric(outputs, y, w)).max() - 1e-12
        differences.append(value - sign * criterion.metric(by_default, y, w))
    if criterion is default:
        assert differences == [0] * 20
    else:
        assert np.mean(differences) > 0


# --- fits ---------------------------------------------------------------------------------------------------------


def out_of_fold(members, data, criterion):
    """The metric of each fold's selected average."""
    found = []
    for fold in range(5):
        of_fold = [member for member in members if member.fold == fold]
        rows = of_fold[0].rows
        weights = np.array([member.weight for member in of_fold])
        average = np.tensordot(weights / weights.sum(), np.stack([member.outputs for member in of_fold]), 1)
        found.append(float(criterion.metric(average, data.y[rows], None if data.w is None else data.w[rows])))
    return found


@pytest.mark.parametrize(("make", "y", "metric"), FITS)
def test_networks_are_trained_and_selected_by_the_metric(make, y, metric, monkeypatch):
    trained = []
    original = ensemble.train

    def train(data, *arguments, **options):
        trained.append((original(data, *arguments, **options), data))
        return trained[-1][0]

    monkeypatch.setattr(ensemble, "train", train)
    w = np.linspace(0.5, 2, N)
    model = make(n_networks=10, metric=metric).fit(TABLE, y, sample_weight=w)
    usual = make(n_networks=10).fit(TABLE, y, sample_weight=w)
    ((members, _), data), ((others, _), _) = trained
    criterion = criteria.get(metric, classes=make is classifier)
    for member, row in zip(members, model.leaderboard_, strict=True):
        own_w = data.w[member.rows]
        assert row["validation_loss"] == criterion.loss(member.outputs, data.y[member.rows], own_w)
        assert row["validation_metric"] == criterion.metric(member.outputs, data.y[member.rows], own_w)
    assert {net.loss.name for net in model._networks} == {criterion.training_loss.name}
    assert list(model.leaderboard_[0]) == list(usual.leaderboard_[0])
    if criterion is criteria.get(None, classes=make is classifier):
        assert output(model) == output(usual)
    elif criterion.score is not None:
        # the same networks, so that only the selection differs
        assert [row["validation_loss"] for row in model.leaderboard_] == [
            row["validation_loss"] for row in usual.leaderboard_
        ]
        assert np.mean(out_of_fold(members, data, criterion)) >= np.mean(out_of_fold(others, data, criterion))


def test_the_absolute_error_predicts_the_median():
    """y is 0 with probability 0.75, else 10: its median is 0, and its mean 2.5."""
    rng = np.random.default_rng(0)
    table, y = {"x": rng.normal(size=300)}, 10.0 * (rng.uniform(size=300) > 0.75)
    median = np.median(regressor(metric="absolute_error", n_networks=5).fit(table, y).predict(table))
    mean = np.median(regressor(n_networks=5).fit(table, y).predict(table))
    assert median < 0.5 and mean == pytest.approx(y.mean(), abs=1)


def test_importance_is_the_increase_of_the_metrics_loss():
    rng = np.random.default_rng(0)
    table = {"x": rng.normal(size=300), "noise": rng.normal(size=300)}
    y = 3 * table["x"]
    model = regressor(metric="absolute_error", n_networks=5).fit(table, y)
    found = model.permutation_importance(table, y)
    # E|3x − 3x'| = 3 · 2/√π of independent draws, in units of the standard deviation 3
    assert found["x"].mean == pytest.approx(2 / math.sqrt(math.pi), rel=0.15)


# --- parameters and files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "y", "metric"), [(classifier, LABELS, "roc_auc"), (regressor, VALUES, "absolute_error")]
)
def test_the_metric_is_saved_with_the_model(make, y, metric, tmp_path):
    model = make(metric=metric).fit(TABLE, y)
    model.save(tmp_path / "m.safetensors")
    again = gpunn.load(tmp_path / "m.safetensors")
    assert again.get_params() == model.get_params() and again.metric == metric
    assert again.leaderboard_ == model.leaderboard_ and output(again) == output(model)
    assert again.permutation_importance(TABLE, y) == model.permutation_importance(TABLE, y)
    assert output(again.fit(TABLE, y)) == output(model)


@pytest.mark.parametrize(
    ("make", "y", "allowed", "refused"),
    [
        (classifier, LABELS, criteria.OF_CLASSES, ["squared_error", "auc", "", 3, ["accuracy"]]),
        (regressor, VALUES, criteria.OF_NUMBERS, ["accuracy", "mse", 0, True]),
    ],
)
def test_unknown_metrics_and_those_of_the_other_task_are_refused(make, y, allowed, refused):
    model = make().fit(TABLE, y)
    before = output(model)
    for value in refused:
        changed = copy.copy(model).set_params(metric=value)
        attributes = dict(vars(changed))
        with pytest.raises(ValueError, match=naming("metric", *map(repr, allowed), repr(value))):
            changed.fit(TABLE, y)
        assert vars(changed) == attributes and output(changed) == before
