"""Training steps of `Sequential` against scikit-learn's networks, from the same weights on the same batches.

scikit-learn draws its initial weights. A fit with a tiny learning rate returns them, and another fit with the same
random_state starts from them. Its `alpha` is divided by Σw of the batch, so l2 = alpha/Σw. For several outputs its
gradient is that of the sum, like half squared error, but it reports the mean over outputs.
"""

import numpy as np
import pytest
from helpers.oracles import oracle

import gpunn

oracle("sklearn")
from sklearn.neural_network import MLPClassifier, MLPRegressor  # noqa: E402

ROWS, COLUMNS, HIDDEN = 12, 5, 7
NAMES = {"logistic": "sigmoid"}
STEPS = 5
CLOSE = {"rtol": 1e-11, "atol": 1e-14}


class Exp(gpunn.activations.Activation):
    """f(z) = eᶻ, the output activation of scikit-learn's poisson loss."""

    opaque = True

    def f(self, z):
        return np.exp(z)

    def derivative(self, z, a):
        return a


def _peer(kind, **options):
    settings = {"hidden_layer_sizes": (HIDDEN,), "solver": "sgd", "shuffle": False, "random_state": 3, "momentum": 0.0}
    return kind(**settings | {"batch_size": ROWS, "alpha": 0.0, "learning_rate_init": 0.1} | options)


def _first_weights(peer, X, y, **options):
    """Return the initial weights of scikit-learn's estimator, and a network that starts from them."""
    still = type(peer)(**peer.get_params() | {"learning_rate_init": 1e-300})
    still.partial_fit(X, y, **options)
    return [w for pair in zip(still.coefs_, still.intercepts_, strict=True) for w in pair]


def _ours(activation, last, n_out, weights, loss, optimizer, l2=0.0):
    net = gpunn.Sequential(
        [gpunn.Dense(HIDDEN, activation, l2=l2), gpunn.Dense(n_out, last, l2=l2)], input_shape=COLUMNS, dtype="float64"
    )
    net.set_weights(weights)
    net.compile(optimizer, loss, device="cpu")
    return net


def _assert_same_weights(peer, net):
    theirs = [w for pair in zip(peer.coefs_, peer.intercepts_, strict=True) for w in pair]
    for mine, wanted in zip(net.get_weights(), theirs, strict=True):
        np.testing.assert_allclose(mine, wanted, **CLOSE)


@pytest.fixture
def rng():
    return np.random.default_rng(8)


@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize(("n_out", "alpha", "weighted"), [(1, 0.0, False), (1, 0.5, True), (3, 0.5, False)])
def test_regression(rng, activation, n_out, alpha, weighted):
    X, Y = rng.normal(size=(ROWS, COLUMNS)), rng.normal(size=(ROWS, n_out))
    w = rng.uniform(0.2, 2, size=ROWS) if weighted else None
    peer = _peer(MLPRegressor, activation=activation, alpha=alpha)
    y = Y.ravel() if n_out == 1 else Y
    l2 = alpha / (ROWS if w is None else w.sum())
    net = _ours(activation, None, n_out, _first_weights(peer, X, y), "half_squared_error", gpunn.SGD(0.1), l2)
    for _ in range(STEPS):
        penalty = l2 / 2 * sum((W**2).sum() for W in net.get_weights()[::2])
        loss = net.train_on_batch(X, Y, sample_weight=w)
        peer.partial_fit(X, y, sample_weight=w)
        # for one output both report the same; for several theirs is the mean
        assert (loss - penalty) / n_out + penalty == pytest.approx(peer.loss_, rel=1e-12)
        _assert_same_weights(peer, net)
    np.testing.assert_allclose(net.predict(X).reshape(y.shape), peer.predict(X), **CLOSE)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_poisson_regression(rng, activation):
    X, y = rng.normal(size=(ROWS, COLUMNS)), rng.integers(0, 6, size=ROWS).astype(float)
    peer = _peer(MLPRegressor, activation=activation, loss="poisson", learning_rate_init=0.02)
    net = _ours(activation, Exp(), 1, _first_weights(peer, X, y), "poisson", gpunn.SGD(0.02))
    # ℓ without the terms that do not depend on a: theirs is y log(y/a) − y + a
    constant = np.mean([v * np.log(v) - v if v else 0 for v in y])
    for _ in range(STEPS):
        loss = net.train_on_batch(X, y[:, None])
        peer.partial_fit(X, y)
        assert loss + constant == pytest.approx(peer.loss_, rel=1e-11)
        _assert_same_weights(peer, net)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 0.5])
@pytest.mark.parametrize("kind", ["classes", "two classes", "yes and no a column"])
@pytest.mark.parametrize("end", ["probabilities", "logits"])
def test_classification(rng, kind, alpha, weighted, end):
    """Softmax and sigmoid with their cross-entropies, fused with the activation or from logits."""
    X = rng.normal(size=(ROWS, COLUMNS))
    w = rng.uniform(0.2, 2, size=ROWS) if weighted else None
    if kind == "classes":
        y = rng.permutation(np.arange(ROWS) % 4)
        n_out, last, loss, mine = 4, "softmax", "sparse_categorical_crossentropy", y
    elif kind == "two classes":
        y = rng.permutation(np.arange(ROWS) % 2)
        n_out, last, loss, mine = 1, "sigmoid", "binary_crossentropy", y[:, None]
    else:
        y = mine = rng.integers(0, 2, size=(ROWS, 3))
        n_out, last, loss = 3, "sigmoid", "binary_crossentropy"
    peer = _peer(MLPClassifier, activation="tanh", alpha=alpha)
    classes = {"classes": np.unique(y) if y.ndim == 1 else np.arange(3)}
    l2 = alpha / (ROWS if w is None else w.sum())
    weights = _first_weights(peer, X, y, **classes)
    net = _ours("tanh", last if end == "probabilities" else None, n_out, weights, loss, gpunn.SGD(0.1), l2)
    for _ in range(STEPS):
        found = net.train_on_batch(X, mine, sample_weight=w)
        peer.partial_fit(X, y, sample_weight=w, **classes)
        assert found == pytest.approx(peer.loss_, rel=1e-11)
        _assert_same_weights(peer, net)
    probabilities = peer.predict_proba(X)
    np.testing.assert_allclose(
        net.predict_proba(X), probabilities[:, 1:] if kind == "two classes" else probabilities, **CLOSE
    )
    np.testing.assert_array_equal(net.predict_classes(X), peer.predict(X))


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_over_mini_batches(rng, nesterov):
    """Batches of 5, 5 and 2 rows. Their velocity is −η times ours; the loss is the mean over rows."""
    X, y = rng.normal(size=(ROWS, COLUMNS)), rng.permutation(np.arange(ROWS) % 4)
    options = {"momentum": 0.8, "nesterovs_momentum": nesterov, "batch_size": 5, "activation": "relu"}
    peer = _peer(MLPClassifier, **options)
    weights = _first_weights(peer, X, y, classes=np.arange(4))
    rule = (gpunn.Nesterov if nesterov else gpunn.Momentum)(0.1, 0.8)
    net = _ours("relu", "softmax", 4, weights, "sparse_categorical_crossentropy", rule)
    for _ in range(STEPS):
        history = net.fit(X, y, batch_size=5, shuffle=False, verbose=0)
        peer.partial_fit(X, y, classes=np.arange(4))
        assert history.history["loss"] == [pytest.approx(peer.loss_, rel=1e-11)]
        _assert_same_weights(peer, net)
