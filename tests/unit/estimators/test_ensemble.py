"""Ensembles: with `n_models=E`, E networks that equal separate fits, bit for bit; mean and standard deviation."""

import pickle

import numpy as np
import pytest
from helpers.messages import naming
from helpers.oracles import oracle

import gpunn
from gpunn.training import checkpoint

oracle("sklearn")
from sklearn.base import clone  # noqa: E402
from sklearn.exceptions import NotFittedError  # noqa: E402
from sklearn.model_selection import cross_val_score  # noqa: E402
from sklearn.utils import check_random_state  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
RNG = np.random.default_rng(4)
X = RNG.normal(size=(53, 4))
THREE = np.array(["ale", "bock", "cider"])[(X[:, 0] > 0).astype(int) + (X[:, 1] > 0.5)]
TWO = np.where(X[:, 0] > 0, "yes", "no")
SOME = (X[:, :3] > 0).astype(int)
ONE, PAIR = X[:, 0] - X[:, 1], X[:, :2] * [1.0, 2.0]
SMALL = {"hidden_layer_sizes": (6, 5), "max_iter": 7, "random_state": 1, "batch_size": 20, "device": "cpu"}
TARGETS = {"three": THREE, "two": TWO, "some": SOME, "one": ONE, "pair": PAIR}


def ensemble(of, **given):
    kind = gpunn.MLPRegressor if of in ("one", "pair") else gpunn.MLPClassifier
    return kind(**SMALL | {"n_models": 3} | given)


def outputs(net):
    return net.predict_proba(X) if hasattr(net, "predict_proba") else net.predict(X)


@pytest.mark.slow
@pytest.mark.parametrize("of", TARGETS)
@pytest.mark.parametrize("given", [{}, {"dropout": 0.3}, {"early_stopping": True}, {"solver": "lbfgs"}], ids=str)
def test_each_member_equals_a_separate_fit(of, given):
    fitted = ensemble(of, **given).fit(X, TARGETS[of])
    seeds = check_random_state(1).randint(2**31 - 1, size=3)
    alone = [ensemble(of, n_models=1, **given | {"random_state": int(s)}).fit(X, TARGETS[of]) for s in seeds]
    for net, wanted in zip(fitted.estimators_, alone, strict=True):
        for a, b in zip(net.coefs_ + net.intercepts_, wanted.coefs_ + wanted.intercepts_, strict=True):
            np.testing.assert_array_equal(a, b)
    for k, coefs in enumerate(fitted.coefs_):
        assert coefs.shape == (3, *alone[0].coefs_[k].shape)
        np.testing.assert_array_equal(coefs, [net.coefs_[k] for net in alone])
        np.testing.assert_array_equal(fitted.intercepts_[k], [net.intercepts_[k] for net in alone])
    each = np.array([outputs(net) for net in alone])
    np.testing.assert_allclose(outputs(fitted), each.mean(axis=0), rtol=1e-12)
    assert fitted.n_iter_ == max(net.n_iter_ for net in alone)
    np.testing.assert_allclose(fitted.loss_, np.mean([net.loss_ for net in alone]), rtol=1e-12)
    if given == {}:
        np.testing.assert_allclose(fitted.loss_curve_, np.mean([net.loss_curve_ for net in alone], axis=0), rtol=1e-12)


@pytest.mark.parametrize("of", ["one", "pair"])
def test_regressor_mean_and_standard_deviation(of):
    fitted = ensemble(of).fit(X, TARGETS[of])
    mean, std = fitted.predict(X, return_std=True)
    each = np.array([net.predict(X) for net in fitted.estimators_])
    assert mean.shape == std.shape == TARGETS[of].shape
    np.testing.assert_array_equal(mean, fitted.predict(X))
    np.testing.assert_allclose(mean, each.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(std, each.std(axis=0), rtol=1e-9, atol=1e-12)
    assert (std > 0).any()


@pytest.mark.parametrize("of", ["three", "two", "some"])
def test_classifier_classes_and_standard_deviation(of):
    fitted = ensemble(of).fit(X, TARGETS[of])
    p, std = fitted.predict_proba(X, return_std=True)
    each = np.array([net.predict_proba(X) for net in fitted.estimators_])
    np.testing.assert_allclose(p, each.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(std, each.std(axis=0), rtol=1e-9, atol=1e-12)
    classes, of_class = fitted.predict(X, return_std=True)
    np.testing.assert_array_equal(classes, fitted.predict(X))
    if of == "some":
        np.testing.assert_array_equal(classes, (p > 0.5).astype(int))
        np.testing.assert_allclose(of_class, std, rtol=1e-12)
    else:
        np.testing.assert_array_equal(classes, fitted.classes_[p.argmax(axis=1)])
        np.testing.assert_allclose(of_class, std[np.arange(len(X)), p.argmax(axis=1)], rtol=1e-12)


def test_clone_pickle_and_cross_validation():
    fitted = ensemble("three").fit(X, THREE)
    assert clone(fitted).get_params() == fitted.get_params() and fitted.get_params()["n_models"] == 3
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict_proba(X), fitted.predict_proba(X))
    assert (
        0 <= fitted.score(X, THREE) <= 1 and fitted.n_features_in_ == 4 and list(fitted.classes_) == sorted(set(THREE))
    )
    assert np.isfinite(cross_val_score(ensemble("three", max_iter=2), X, THREE, cv=2)).all()
    w = RNG.uniform(0.5, 2, len(X))
    weighted = ensemble("three").fit(X, THREE, sample_weight=w)
    alone = clone(weighted.estimators_[2]).fit(X, THREE, sample_weight=w)
    np.testing.assert_array_equal(weighted.coefs_[0][2], alone.coefs_[0])


def test_shared_generator_gives_different_members():
    generator = np.random.RandomState(5)
    first, second = (ensemble("one", random_state=generator).fit(X, ONE) for _ in range(2))
    assert not np.array_equal(first.coefs_[0], second.coefs_[0])


def test_changing_n_models_between_fits():
    fitted = ensemble("three", n_models=1).fit(X, THREE)
    wanted = fitted.predict_proba(X)
    fitted.set_params(n_models=2).fit(X, THREE)
    assert len(fitted.estimators_) == 2 and not hasattr(fitted, "net_") and not hasattr(fitted, "history_")
    fitted.set_params(n_models=1).fit(X, THREE)
    assert not hasattr(fitted, "estimators_")
    np.testing.assert_array_equal(fitted.predict_proba(X), wanted)


def test_members_have_their_own_validation_and_callbacks():
    stop = gpunn.EarlyStopping("val_loss", patience=1)
    fitted = ensemble("one", callbacks=[stop], max_iter=30, learning_rate_init=0.2)
    fitted.fit(X[:40], ONE[:40], validation_data=(X[40:], ONE[40:]))
    alone = clone(fitted.estimators_[1]).fit(X[:40], ONE[:40], validation_data=(X[40:], ONE[40:]))
    np.testing.assert_array_equal(fitted.coefs_[0][1], alone.coefs_[0])
    assert alone.n_iter_ == fitted.estimators_[1].n_iter_ < 30


@pytest.mark.parametrize("of", TARGETS)
def test_save_and_load(of, tmp_path):
    fitted = ensemble(of).fit(X, TARGETS[of])
    fitted.save(tmp_path / "several.safetensors")
    again = gpunn.load(tmp_path / "several.safetensors")
    assert again.get_params() == fitted.get_params() and len(again.estimators_) == 3
    for a, b in zip(again.predict(X, return_std=True), fitted.predict(X, return_std=True), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(again.coefs_ + again.intercepts_, fitted.coefs_ + fitted.intercepts_, strict=True):
        np.testing.assert_array_equal(a, b)
    for name in ("n_iter_", "loss_", "loss_curve_", "n_features_in_", "n_outputs_", "out_activation_"):
        assert getattr(again, name) == getattr(fitted, name), name


def test_file_with_mismatched_members_is_refused(tmp_path):
    tensors, metadata = ensemble("one").fit(X, ONE).to_tensors()
    other, more = ensemble("one", hidden_layer_sizes=(4, 5)).fit(X, ONE).to_tensors()

    def refused(arrays, content, message):
        checkpoint.write(tmp_path / "x.safetensors", arrays, {**metadata, "ensemble": content})
        with pytest.raises(gpunn.CheckpointError, match=message):
            gpunn.load(tmp_path / "x.safetensors")

    nets = metadata["ensemble"]["nets"]
    refused({}, {**metadata["ensemble"], "nets": []}, "0 arrays for 0 networks")
    refused(tensors, {**metadata["ensemble"], "nets": nets[:2]}, r"\d+ arrays for 2 networks")
    mixed = {n: a for n, a in tensors.items() if not n.startswith("nets.2/")}
    mixed |= {n: a for n, a in other.items() if n.startswith("nets.2/")}
    content = {**metadata["ensemble"], "nets": [*nets[:2], more["ensemble"]["nets"][2]]}
    refused(mixed, content, "different shapes or classes")
    refused(mixed, metadata["ensemble"], "must be")
    nested = {"kind": "estimator", "class": "MLPRegressor", "ensemble": metadata["ensemble"]}
    inside = {f"nets.0/{name}": a for name, a in tensors.items()}
    refused(inside, {**metadata["ensemble"], "nets": [nested]}, "ensemble of ensembles")


def test_simulated_gpu(fake_cupy):
    there = ensemble("three", device="cuda").fit(X, THREE)
    here = ensemble("three").fit(X, THREE)
    np.testing.assert_allclose(there.predict_proba(X), here.predict_proba(X), rtol=1e-8)
    assert all(net.net_.device == "cuda:0" for net in there.estimators_)


def test_invalid_use_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'n_models' parameter"):
        ensemble("one", n_models=0).fit(X, ONE)
    with pytest.raises(ValueError, match=naming("warm_start=True", "n_models")):
        ensemble("one", warm_start=True).fit(X, ONE)
    with pytest.raises(ValueError, match=naming("resume")):
        ensemble("one").fit(X, ONE, resume=tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=naming("partial_fit")):
        ensemble("one").partial_fit(X, ONE)
    with pytest.raises(NotFittedError):
        ensemble("one").predict(X, return_std=True)
    one = ensemble("one", n_models=1).fit(X, ONE)
    with pytest.raises(ValueError, match="return_std=True needs an ensemble"):
        one.predict(X, return_std=True)
    several = ensemble("one").fit(X, ONE)
    with pytest.raises(ValueError, match=naming("export", 3, "estimators_")):
        several.export(tmp_path / "x")
    with pytest.raises(ValueError, match=naming("to_sklearn")):
        several.to_sklearn()
    before = [c.copy() for c in several.coefs_]
    with pytest.raises(ValueError, match="NaN"):
        several.fit(np.where(X > 1, np.nan, X), ONE)
    for a, b in zip(several.coefs_, before, strict=True):
        np.testing.assert_array_equal(a, b)
    assert len(several.estimators_) == 3 and not list(tmp_path.iterdir())
