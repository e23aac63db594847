"""The training of an ensemble: folds, best epochs, networks that diverge, the deadline and Ctrl-C."""

import time
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.messages import naming
from helpers.tabular_cases import LABELS, TABLE, classifier

from gpunn.tabular import criteria, ensemble, tabular_estimator
from gpunn.tabular.ensemble import TrainingSet, folds, predict, train
from gpunn.tabular.settings import EPOCHS, MAX_EPOCHS, Settings, batch_size, sample
from gpunn.training import DivergenceError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(90, 4)).astype(np.float32)
CLASSES = TrainingSet(X, (X[:, 0] > 0).astype(np.int32), None, 2)
NUMBERS = TrainingSet(X, X[:, :1].astype(np.float64), RNG.uniform(0.5, 2, 90), 1)


def settings(**changes):
    usual = {"learning_rate": 3e-3, "weight_decay": 0.01, "dropout": 0.0, "depth": 1, "width": 8, "activation": "silu"}
    return Settings(**(usual | {"epochs": 4, "seed": 1} | changes))


def criterion_of(data):
    return criteria.get(None, classes=data.y.ndim == 1)


def trained(data, n_networks=2, n_folds=2, **options):
    generator = np.random.default_rng(0)
    members, interrupted = train(
        data, n_networks, n_folds, generator, criterion=criterion_of(data), device="cpu", **options
    )
    assert not interrupted
    return members


def test_folds_are_disjoint_and_stratified_by_class():
    y = np.repeat([0, 1, 2], [50, 23, 4])
    found = folds(y, 5, np.random.default_rng(0))
    assert sorted(np.concatenate(found).tolist()) == list(range(77))
    for label, count in ((0, 50), (1, 23), (2, 4)):
        assert {int((y[rows] == label).sum()) for rows in found} <= {count // 5, count // 5 + 1}


def test_folds_are_stratified_by_the_order_of_numbers():
    y = np.random.default_rng(1).permutation(100.0 * np.arange(60))[:, None]
    for rows in folds(y, 4, np.random.default_rng(0)):
        # one of each four neighbours in the order
        assert (np.sort(y[rows, 0]) // 400).tolist() == list(range(15))


def test_one_fold_is_a_fifth_of_the_rows():
    (rows,) = folds(np.zeros(52, np.int32), 1, np.random.default_rng(0))
    assert len(rows) == 11 and len(set(rows.tolist())) == 11
    (few,) = folds(np.zeros(2, np.int32), 1, np.random.default_rng(0))
    assert len(few) == 1


@pytest.mark.parametrize("data", [CLASSES, NUMBERS], ids=["classes", "numbers"])
def test_each_network_keeps_its_best_epoch_and_is_validated_on_other_rows(data, monkeypatch):
    seen = []
    loss_of = criterion_of(data).loss

    class Watched(ensemble.KeepBestEpoch):
        def on_epoch_end(self, epoch, logs=None):
            super().on_epoch_end(epoch, logs)
            outputs = predict(self.model, self._rows.X, classes=data is CLASSES)
            seen.append((id(self), float(loss_of(outputs, self._rows.y, self._rows.w))))

    monkeypatch.setattr(ensemble, "KeepBestEpoch", Watched)
    # large steps, so that the best epoch is not the last one
    monkeypatch.setattr(ensemble.sampled, "sample", lambda *_: [settings(learning_rate=0.3, epochs=8)] * 2)
    members = trained(data)
    by_network = {}
    for network, loss in seen:
        by_network.setdefault(network, []).append(loss)
    for member, losses in zip(members, by_network.values(), strict=True):
        assert len(losses) == 8 and member.loss == min(losses) and member.epoch == losses.index(min(losses)) + 1
        w = None if data.w is None else data.w[member.rows]
        outputs = predict(member.net, data.X[member.rows], classes=data is CLASSES)
        np.testing.assert_array_equal(outputs, member.outputs)
        assert float(loss_of(outputs, data.y[member.rows], w)) == member.loss
    assert any(member.epoch < 8 for member in members)
    assert not set(members[0].rows.tolist()) & set(members[1].rows.tolist())


def test_a_network_that_is_worse_than_the_median_at_half_of_its_epochs_is_stopped(monkeypatch):
    epochs = []

    class Watched(ensemble.KeepBestEpoch):
        def on_train_begin(self, logs=None):
            epochs.append(0)

        def on_epoch_end(self, epoch, logs=None):
            epochs[-1] += 1
            super().on_epoch_end(epoch, logs)

    monkeypatch.setattr(ensemble, "KeepBestEpoch", Watched)
    good, bad = settings(learning_rate=3e-2, epochs=7), settings(learning_rate=1e-5, epochs=7)
    monkeypatch.setattr(ensemble.sampled, "sample", lambda *_: [bad, good, bad, bad])
    monkeypatch.setattr(ensemble, "GROUP", 1)
    members = trained(CLASSES, 4, 1)
    assert epochs == [7, 7, 4, 4]
    assert members[1].loss < np.median([members[0].loss, members[1].loss]) < members[2].loss
    epochs.clear()
    trained(CLASSES, 4, 4)  # networks of other folds are no rivals
    assert sum(epochs) == 28
    epochs.clear()
    monkeypatch.setattr(ensemble, "GROUP", 4)
    trained(CLASSES, 4, 1)  # nor are those that are trained concurrently
    assert sum(epochs) == 28


def test_weights_are_those_of_the_folds_and_sum_to_one():
    members = trained(CLASSES, 5, 2)
    assert [member.fold for member in members] == [0, 1, 0, 1, 0]
    for fold in (0, 1):
        assert sum(member.weight for member in members if member.fold == fold) == pytest.approx(0.5)


def test_a_network_that_diverges_is_left_out(monkeypatch):
    plans = [settings(), settings(learning_rate=1e30), settings(seed=2), settings(seed=3)]
    monkeypatch.setattr(ensemble.sampled, "sample", lambda *_: plans)
    members = trained(NUMBERS, 4)
    assert [member.settings.seed for member in members] == [1, 2, 3]
    assert all(np.isfinite(member.outputs).all() for member in members)
    monkeypatch.setattr(ensemble.sampled, "sample", lambda *_: [settings(learning_rate=1e30)] * 4)
    with pytest.raises(DivergenceError, match=naming("all networks", "extreme numbers")):
        trained(NUMBERS, 4)


def test_no_network_is_started_after_the_deadline(caplog):
    assert len(trained(CLASSES, 6, deadline=time.monotonic())) == 2
    assert caplog.messages == ["time_limit: the training ended with 2 of 6 networks"]
    assert len(trained(CLASSES, 6, deadline=time.monotonic() + 1e6)) == 6


def test_networks_end_with_the_epoch_in_which_the_deadline_passes(monkeypatch, caplog):
    clock = iter(range(1000))
    monkeypatch.setattr(ensemble, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(ensemble.sampled, "sample", lambda *_: [settings(epochs=30)] * 3)
    monkeypatch.setattr(ensemble, "GROUP", 1)
    (member,) = trained(CLASSES, 3, 1, deadline=5.5)  # the first reading is that of the beginning
    assert member.epoch == 6
    assert caplog.messages == ["time_limit: the training ended with 1 of 3 networks"]
    clock = iter(range(1000))
    assert len(trained(CLASSES, 1, 1, deadline=5.5)) == 1  # a last group that is cut short is reported, too
    assert caplog.messages[1:] == ["time_limit: the training ended with 1 of 1 networks"]


def test_ctrl_c_keeps_complete_groups(caplog, monkeypatch):
    def interrupt(members):
        raise KeyboardInterrupt

    generator = np.random.default_rng(0)
    members, interrupted = train(
        CLASSES, 6, 2, generator, criterion=criterion_of(CLASSES), device="cpu", report=interrupt
    )
    assert len(members) == 2 and interrupted
    assert caplog.messages == ["interrupted: the training ended with 2 of 6 networks"]

    def at_once(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(ensemble, "_train_group", at_once)
    with pytest.raises(KeyboardInterrupt):
        trained(CLASSES, 6)


def test_large_tables_have_one_part_of_validation_rows(monkeypatch):
    monkeypatch.setattr(tabular_estimator, "MAX_ROWS_FOR_FOLDS", 50)
    model = classifier(n_networks=6).fit(TABLE, LABELS)
    assert {row["fold"] for row in model.leaderboard_} == {0} and len(model.leaderboard_) == 6


def test_settings_are_sampled_within_their_ranges():
    found = sample(200, 5, 25, np.random.default_rng(0))
    assert [each.epochs for each in found[:25:5]] == [*EPOCHS, EPOCHS[0]]
    assert all(found[k].epochs == found[0].epochs for k in range(5))
    rates = np.log10([each.learning_rate for each in found])
    assert -3.1 <= rates.min() < -3 and -1.9 < rates.max() <= -1.8
    dropout = np.array([each.dropout for each in found])
    assert dropout.min() == 0 and 0.2 < (dropout == 0).mean() < 0.4 and 0.45 < dropout.max() < 0.5
    assert {each.depth for each in found} == {1, 2, 3} and {each.width for each in found} == {64, 128, 256}
    assert len({each.seed for each in found}) == 200
    assert sample(4, 1, 1, np.random.default_rng(0))[3].epochs == MAX_EPOCHS
    assert [batch_size(n) for n in (2499, 2500, 4999, 5000)] == [32, 64, 64, 128]


def test_n_jobs_limits_the_threads_and_changes_no_network():
    pytest.importorskip("threadpoolctl")
    one, all_cores = (classifier(n_jobs=n).fit(TABLE, LABELS) for n in (1, -1))
    assert [row["validation_loss"] for row in one.leaderboard_] == [
        row["validation_loss"] for row in all_cores.leaderboard_
    ]
    with pytest.raises(ValueError, match=naming("n_jobs", 0)):
        classifier(n_jobs=0).fit(TABLE, LABELS)
