"""Gradients against PyTorch's automatic differentiation, in float64, and running statistics against its layers."""

import numpy as np
import pytest
from helpers.oracles import oracle
from helpers.random_nets import LOSSES, OUTPUTS, random_case

import gpunn

torch = oracle("torch")
F = torch.nn.functional
CASES = 200
TOLERANCE = 1e-11  # relative to the largest entry
# the scale is a parameter's largest entry, or this fraction of the gradient's if normalization cancels the parameter's
FLOOR = 1e-3


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Use one thread in PyTorch: for small matrices more are slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


ACTIVATIONS = {
    "relu": F.relu,
    "leaky_relu": lambda z, alpha: F.leaky_relu(z, alpha),
    "elu": lambda z, alpha: F.elu(z, alpha),
    "gelu": lambda z: F.gelu(z, approximate="tanh"),
    "silu": F.silu,
    "selu": F.selu,
    "mish": F.mish,
    "softplus": F.softplus,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "exponential": torch.exp,
    "identity": lambda z: z,
    "softmax": lambda z: F.softmax(z, dim=1),
    "UserSigmoid": torch.sigmoid,
    "UserSoftmax": lambda z: F.softmax(z, dim=1),
}


def _row_losses(case, z, a, y):
    """ℓ of every row. A cross-entropy that gpunn fuses with its activation is computed from z, the logits."""
    loss = case.net.loss
    smoothing = getattr(loss, "label_smoothing", 0.0)
    if case.meaning == "probabilities":
        return {
            "binary_crossentropy": lambda: F.binary_cross_entropy(a, y, reduction="none").sum(dim=1),
            "categorical_crossentropy": lambda: (
                -torch.xlogy((1 - smoothing) * y + smoothing / a.shape[1], a).sum(dim=1)
            ),
            "sparse_categorical_crossentropy": lambda: (
                (1 - smoothing) * F.nll_loss(torch.log(a), y, reduction="none") - smoothing * torch.log(a).mean(dim=1)
            ),
        }[loss.name]()
    logits = z if case.meaning == "merged" else a
    return {
        "half_squared_error": lambda: F.mse_loss(a, y, reduction="none").sum(dim=1) / 2,
        "mean_squared_error": lambda: F.mse_loss(a, y, reduction="none").mean(dim=1),
        "mean_absolute_error": lambda: F.l1_loss(a, y, reduction="none").mean(dim=1),
        "huber": lambda: F.huber_loss(a, y, reduction="none", delta=loss.delta).mean(dim=1),
        "log_cosh": lambda: torch.log(torch.cosh(a - y)).mean(dim=1),
        "quartic": lambda: ((a - y) ** 4).sum(dim=1) / 4,
        "poisson": lambda: F.poisson_nll_loss(a, y, log_input=False, eps=0, reduction="none").mean(dim=1),
        "binary_crossentropy": lambda: F.binary_cross_entropy_with_logits(logits, y, reduction="none").sum(dim=1),
        "categorical_crossentropy": lambda: F.cross_entropy(logits, y, reduction="none", label_smoothing=smoothing),
        "sparse_categorical_crossentropy": lambda: F.cross_entropy(
            logits, y, reduction="none", label_smoothing=smoothing
        ),
    }[loss.name]()


def _mask(net, k, shape):
    """The scaled mask of the Dropout layer at position k, drawn by a network of this layer alone.

    A mask depends on seed, step, position and element only.
    """
    layer = net.layers[k]
    before = [gpunn.Activation("identity") for _ in range(k)]
    alone = gpunn.Sequential([*before, gpunn.Dropout(layer.rate, form=layer.form)], seed=net.seed, dtype="float64")
    drawn = alone.trace(np.ones(shape), training=True)[-1].a
    scale = 1 / (1 - layer.rate) if layer.form == "inverted" else 1.0
    assert set(np.unique(drawn)) <= {0.0, scale}
    return torch.from_numpy(drawn)


def _normalize(x, layer, p, running, training):
    of_batch = training and layer.trainable
    by_row = isinstance(layer, gpunn.LayerNormalization)
    if (by_row and x.shape[1] == 1) or (not by_row and of_batch and len(x) == 1):
        # x̂ = 0 for a single number; PyTorch refuses such a batch, and returns rounding errors for such a row
        return 0 * x * p["gamma"] + p["beta"]
    if by_row:
        return F.layer_norm(x, x.shape[1:], p["gamma"], p["beta"], layer.epsilon)
    mean, variance = running["running_mean"], running["running_variance"]
    return F.batch_norm(x, mean, variance, p["gamma"], p["beta"], of_batch, 0.0, layer.epsilon)


def reference(case):
    """Return C, its gradients in the order of `get_weights` (None if frozen), and ∂C/∂x, by autograd."""
    net = case.net
    tensors = {name: torch.tensor(values) for name, values in net.to_tensors()[0].items()}
    x = torch.tensor(case.x, requires_grad=True)
    leaves, penalty, a, z = [], 0.0, x, x
    for k, layer in enumerate(net.layers):
        mine = {name.split(".")[-1]: t for name, t in tensors.items() if name.startswith(f"layers.{k}.")}
        names = [p.name for p in layer.parameters()]
        for name in names:
            mine[name].requires_grad_(layer.trainable)
        leaves += [mine[name] for name in names]
        z = a
        if isinstance(layer, gpunn.Dense):
            z = a @ mine["W"] + mine.get("b", 0)
            penalty = penalty + layer.l2 / 2 * (mine["W"] ** 2).sum() + layer.l1 * mine["W"].abs().sum()
        elif isinstance(layer, gpunn.Embedding):
            kept = [c for c in range(layer.n_in) if c not in layer.columns]
            V = [mine[name] for name in names]
            embedded = [F.embedding(a[:, c].long(), v) for c, v in zip(layer.columns, V, strict=True)]
            z = torch.cat([a[:, kept], *embedded], dim=1)
            penalty = penalty + layer.l2 / 2 * sum((v**2).sum() for v in V)
        elif isinstance(layer, gpunn.Dropout):
            z = a * _mask(net, k, tuple(a.shape)) if case.training else a
            if layer.form == "textbook" and not case.training:
                z = a * (1 - layer.rate)
        elif isinstance(layer, gpunn.PeriodicEmbedding):
            x_of = a[:, layer.columns, None]
            cosines = torch.cos(2 * torch.pi * (x_of * mine["w"] + mine["b"]))
            z = torch.cat([a, cosines.flatten(1)], dim=1)
        elif not isinstance(layer, gpunn.Activation):
            z = _normalize(a, layer, mine, mine, case.training)
        a = ACTIVATIONS[layer.activation.name](z, *layer.activation.get_config().values())
    w = torch.ones(len(x), dtype=torch.float64) if case.w is None else torch.from_numpy(case.w)
    rows = _row_losses(case, z, a, torch.from_numpy(case.y))
    loss = (w * rows).sum() / w.sum() + penalty
    trained = [t for t in leaves if t.requires_grad]
    found = iter(torch.autograd.grad(loss, [x, *trained], materialize_grads=True))
    grad_x = next(found)
    return loss.item(), [next(found).numpy() if t.requires_grad else None for t in leaves], grad_x.numpy()


@pytest.mark.parametrize("number", range(CASES))
def test_loss_and_gradients(number):
    case = random_case(number)
    net, given = case.net, {"training": case.training, "sample_weight": case.w}
    wanted_loss, wanted, wanted_x = reference(case)
    loss, gradients = net.loss_and_gradients(case.x, case.y, **given)
    assert loss == pytest.approx(wanted_loss, rel=TOLERANCE, abs=0)
    pairs = [*zip(gradients, wanted, strict=True), (net.input_gradient(case.x, case.y, **given), wanted_x)]
    whole = max(np.abs(v).max() for _, v in pairs if v is not None)
    for found, expected in pairs:
        if expected is None:
            assert not found.any()
            continue
        assert found.shape == expected.shape
        scale = max(np.abs(expected).max(), FLOOR * whole)
        np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE * scale, err_msg=repr(net))


def test_random_cases_cover_every_layer_loss_and_option():
    """Each is present at least once."""
    cases = [random_case(k) for k in range(CASES)]
    layers = [layer for case in cases for layer in case.net.layers]
    assert {layer.activation for layer in layers} >= {gpunn.activations.get(a) for a in OUTPUTS}
    seen = {repr(case.net.loss) for case in cases}
    assert seen == {repr(gpunn.losses.get(loss)) for loss, *_ in LOSSES}
    merged = {"sigmoid", "softmax"}
    for meaning in ("merged", "logits", "probabilities"):
        of = [case.net for case in cases if case.meaning == meaning]
        assert {net.loss.name for net in of} == {
            "binary_crossentropy",
            "categorical_crossentropy",
            "sparse_categorical_crossentropy",
        }
        assert ({net.layers[-1].activation.name for net in of} <= merged) == (meaning == "merged")
    assert {layer.l2 > 0 for layer in layers if type(layer) is gpunn.Embedding} == {True, False}
    for kind in (
        *(gpunn.Dense, gpunn.Activation, gpunn.Dropout, gpunn.Embedding, gpunn.PeriodicEmbedding),
        *(gpunn.BatchNormalization, gpunn.LayerNormalization),
    ):
        assert {case.training for case in cases for layer in case.net.layers if type(layer) is kind} == {True, False}
    dense = [layer for layer in layers if type(layer) is gpunn.Dense]
    assert {layer.use_bias for layer in dense} == {layer.trainable for layer in dense} == {True, False}
    assert {layer.l2 > 0 for layer in dense} == {layer.l1 > 0 for layer in dense} == {True, False}
    assert {layer.units for layer in dense} == set(range(1, 10))
    assert {len(case.x) for case in cases} == set(range(1, 18))
    assert {case.w is None for case in cases} == {True, False}
    assert any((case.w == 0).any() for case in cases if case.w is not None)


@pytest.mark.parametrize("form", ["inverted", "textbook"])
def test_dropout_mask_is_that_of_the_trace_at_every_step(form):
    """The forward and the backward pass use the mask of `trace`, which changes with the step."""
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(9, 6)), rng.normal(size=(9, 2))
    net = gpunn.Sequential(
        [gpunn.Dense(11, "tanh"), gpunn.Dropout(0.4, form=form), gpunn.Dense(2)], seed=3, dtype="float64"
    )
    net.compile(gpunn.SGD(0.05), "half_squared_error", device="cpu")
    masks = []
    for _ in range(3):
        records = net.trace(x, y, training=True)
        masks.append(records[1].a != 0)
        scale = 1 / 0.6 if form == "inverted" else 1.0
        W1, b1, W2, b2 = leaves = [torch.tensor(w, requires_grad=True) for w in net.get_weights()]
        hidden = torch.tanh(torch.tensor(x) @ W1 + b1) * torch.tensor(masks[-1] * scale)
        loss = ((hidden @ W2 + b2 - torch.tensor(y)) ** 2).sum() / 18
        wanted = torch.autograd.grad(loss, leaves)
        found_loss, gradients = net.loss_and_gradients(x, y)
        for found, traced, expected in zip(
            gradients, [records[0].dW, records[0].db, records[2].dW, records[2].db], wanted, strict=True
        ):
            largest = expected.abs().max().item()
            np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=TOLERANCE * largest)
            np.testing.assert_allclose(traced, expected.numpy(), rtol=0, atol=TOLERANCE * largest)
        assert found_loss == pytest.approx(loss.item(), rel=1e-14)
        assert net.train_on_batch(x, y) == found_loss
    assert 0.3 < np.mean(masks) < 0.9
    assert (masks[0] != masks[1]).any() and (masks[1] != masks[2]).any()


def _torch_copy(net, *modules):
    """Make a module with the network's weights, which PyTorch stores transposed."""
    torch_net = torch.nn.Sequential(*modules).double()
    with torch.no_grad():
        for p, w in zip(torch_net.parameters(), net.get_weights(), strict=True):
            p.copy_(torch.from_numpy(w.T))
    return torch_net


@pytest.mark.parametrize("momentum", [0.1, 0.75])
def test_running_statistics_equal_torch(momentum):
    """Over several steps, on batches of different sizes: running ← running + momentum (batch − running), the variance
    unbiased; then prediction uses them."""
    rng = np.random.default_rng(0)
    net = gpunn.Sequential(
        [
            gpunn.Dense(5),
            gpunn.BatchNormalization(momentum=momentum, epsilon=1e-4),
            gpunn.Activation("relu"),
            gpunn.Dense(3),
        ],
        input_shape=4,
        seed=1,
        dtype="float64",
    )
    net.compile(gpunn.Momentum(0.05, 0.8), "mean_squared_error", device="cpu")
    norm = torch.nn.BatchNorm1d(5, eps=1e-4, momentum=momentum)
    torch_net = _torch_copy(net, torch.nn.Linear(4, 5), norm, torch.nn.ReLU(), torch.nn.Linear(5, 3))
    rule = torch.optim.SGD(torch_net.parameters(), 0.05, momentum=0.8)
    for rows in (8, 8, 3, 2, 13, 8, 3, 2):
        x, y = rng.normal(1, 2, size=(rows, 4)), rng.normal(size=(rows, 3))
        loss = F.mse_loss(torch_net(torch.from_numpy(x)), torch.from_numpy(y))
        rule.zero_grad()
        loss.backward()
        rule.step()
        assert net.train_on_batch(x, y) == pytest.approx(loss.item(), rel=1e-11)
        tensors = net.to_tensors()[0]
        np.testing.assert_allclose(tensors["layers.1.running_mean"], norm.running_mean.numpy(), rtol=1e-11)
        np.testing.assert_allclose(tensors["layers.1.running_variance"], norm.running_var.numpy(), rtol=1e-11)
    torch_net.eval()
    x = rng.normal(size=(20, 4))
    np.testing.assert_allclose(net.predict(x), torch_net(torch.from_numpy(x)).detach().numpy(), rtol=1e-10, atol=1e-12)
    # a frozen layer normalizes with its running values in training too, and does not change them
    net.layers[1].trainable = False
    before = net.to_tensors()[0]
    net.train_on_batch(x, rng.normal(size=(20, 3)))
    after = net.to_tensors()[0]
    for name, values in before.items():
        stays = name.startswith("layers.1.")
        assert np.array_equal(after[name], values) == stays


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_embeddings_are_trained_as_by_torch(optimizer):
    """nn.Embedding per column of codes, over several steps on batches in which most codes are missing."""
    rng = np.random.default_rng(2)
    net = gpunn.Sequential(
        [gpunn.Embedding([1, 3], [12, 4], [3, 2]), gpunn.Dense(2)], input_shape=4, seed=1, dtype="float64"
    )
    rule = {"sgd": gpunn.SGD(0.1), "adam": gpunn.Adam(0.01, epsilon=1e-8)}[optimizer]
    net.compile(rule, "mean_squared_error", device="cpu")
    first, second, last = torch.nn.Embedding(12, 3), torch.nn.Embedding(4, 2), torch.nn.Linear(7, 2)
    modules = torch.nn.ModuleList([first, second, last]).double()
    with torch.no_grad():
        for p, w, name in zip(modules.parameters(), net.get_weights(), ("V1", "V2", "W", "b"), strict=True):
            p.copy_(torch.from_numpy(w.T if name == "W" else w))
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[optimizer]
    steps = kind(modules.parameters(), {"sgd": 0.1, "adam": 0.01}[optimizer])
    for rows in (8, 8, 3, 1, 13, 8):
        x, y = rng.normal(size=(rows, 4)), rng.normal(size=(rows, 2))
        x[:, 1], x[:, 3] = rng.integers(0, 12, rows), rng.integers(0, 4, rows)
        codes = torch.from_numpy(x).long()
        a = torch.cat([torch.from_numpy(x[:, [0, 2]]), first(codes[:, 1]), second(codes[:, 3])], dim=1)
        loss = F.mse_loss(last(a), torch.from_numpy(y))
        steps.zero_grad()
        loss.backward()
        steps.step()
        assert net.train_on_batch(x, y) == pytest.approx(loss.item(), rel=1e-11)
    for p, w, name in zip(modules.parameters(), net.get_weights(), ("V1", "V2", "W", "b"), strict=True):
        np.testing.assert_allclose(w.T if name == "W" else w, p.detach().numpy(), rtol=1e-9, atol=1e-11)


def test_a_batch_of_one_row_moves_the_running_variance_towards_0():
    """The unbiased variance of one row does not exist; the biased one is 0, and PyTorch refuses."""
    net = gpunn.Sequential([gpunn.BatchNormalization(momentum=0.25)], input_shape=2, seed=0, dtype="float64")
    net.compile(gpunn.SGD(0.5), "half_squared_error", device="cpu")
    net.train_on_batch([[4.0, -8.0]], [[0.0, 0.0]])
    tensors = net.to_tensors()[0]
    np.testing.assert_array_equal(tensors["layers.0.running_mean"], [1.0, -2.0])
    np.testing.assert_array_equal(tensors["layers.0.running_variance"], [0.75, 0.75])
