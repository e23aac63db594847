"""gpunn's optimizers, dtypes, devices and verbosity in the estimators."""

import numpy as np
import pytest
from helpers.oracles import oracle

import gpunn

oracle("sklearn")
from helpers.wine_fits import LABELS, NAMES, TWO, Recorder, X, assert_equal, classifier, differ, regressor, weights_of  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

# --- optimizers -----------------------------------------------------------------------------------------------------


OPTIMIZERS = {
    "sgd": "sgd",
    "rmsprop": "RMSprop",
    "adamw": gpunn.AdamW(0.01),
    "momentum with a schedule": gpunn.Momentum(gpunn.schedules.StepDecay(0.05, 3)),
    "nesterov by epochs": gpunn.Nesterov(gpunn.schedules.StepDecay(0.05, 2, per="epoch")),
}


@pytest.mark.parametrize("case", OPTIMIZERS)
def test_optimizer_steps_equal_those_of_a_sequential(case):
    recorder = Recorder()
    fitted = classifier(optimizer=OPTIMIZERS[case], callbacks=[recorder], alpha=0.0, shuffle=False).fit(X, NAMES)
    layers = [gpunn.Dense(8, "relu"), gpunn.Dense(7, "relu"), gpunn.Dense(3, "softmax")]
    net = gpunn.Sequential(layers, input_shape=13, seed=0, dtype="float64")
    net.set_weights(recorder.weights[0])
    net.compile(OPTIMIZERS[case], "sparse_categorical_crossentropy")
    net.fit(X, LABELS, batch_size=50, epochs=4, shuffle=False, verbose=0)
    for a, b in zip(weights_of(fitted), net.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    assert differ(fitted, classifier().fit(X, NAMES))


def test_clipnorm_limits_the_gradient_norm():
    """With plain SGD and no penalty, the step is η times the gradient, whose norm is clipnorm."""
    recorder = Recorder()
    more = {"solver": "sgd", "momentum": 0.0, "nesterovs_momentum": False, "alpha": 0.0, "batch_size": len(X)}
    for clipnorm, length in ((0.01, 0.01), (1e9, None)):
        recorder = Recorder()
        classifier(clipnorm=clipnorm, learning_rate_init=0.1, callbacks=[recorder], max_iter=1, **more).fit(X, NAMES)
        step = np.sqrt(sum(((a - b) ** 2).sum() for a, b in zip(*recorder.weights, strict=True)))
        if length is not None:
            assert step == pytest.approx(0.1 * length, rel=1e-9)
        else:
            assert step > 0.01
    # a norm above all gradients changes nothing
    assert_equal(classifier(clipnorm=1e9).fit(X, NAMES), classifier().fit(X, NAMES))


# --- dtype, device, verbosity ---------------------------------------------------------------------------------------


def test_float32_by_dtype_and_by_input():
    for dtype in ("float32", np.float32, np.dtype("float32")):
        fast = classifier(dtype=dtype).fit(X, NAMES)
        assert [a.dtype for a in weights_of(fast)] == [np.float32] * 6
        assert fast.predict_proba(X).dtype == np.float32
        assert fast.net_.dtype == np.float32
    by_table = classifier().fit(X.astype(np.float32), NAMES)
    assert_equal(fast, by_table, rtol=1e-5)
    exact = classifier(dtype="float64").fit(X.astype(np.float32), NAMES)
    assert exact.coefs_[0].dtype == np.float64
    slow = classifier().fit(X, NAMES)
    np.testing.assert_allclose(fast.predict_proba(X), slow.predict_proba(X), atol=1e-4)
    assert differ(fast, slow)
    assert regressor(dtype="float32").fit(X, TWO).predict(X).dtype == np.float32
    # like scikit-learn, which runs L-BFGS in float64
    assert classifier(solver="lbfgs").fit(X.astype(np.float32), NAMES).coefs_[0].dtype == np.float64


def test_device_and_precision():
    plain = classifier().fit(X, NAMES)
    assert_equal(classifier(device="cpu").fit(X, NAMES), plain)
    assert plain.net_.device in ("cpu", "cuda:0")
    assert_equal(classifier(precision="float64").fit(X, NAMES), plain)
    assert_equal(
        classifier(dtype="float32", precision="float32").fit(X, NAMES), classifier(dtype="float32").fit(X, NAMES)
    )


@pytest.mark.parametrize("bar", ["bar", True, False])
def test_verbose_output(bar, capsys):
    if bar == "bar":
        pytest.importorskip("tqdm")
    quiet = classifier().fit(X, NAMES)
    capsys.readouterr()
    fitted = classifier(verbose=bar).fit(X, NAMES)
    out, err = capsys.readouterr()
    assert_equal(fitted, quiet)
    assert ("Iteration 4, loss = " in out) == (bar is True)
    assert ("4/4" in err and f"loss {fitted.loss_:.4g}" in err) == (bar == "bar")
    if bar is False:
        assert (out, err) == ("", "")
