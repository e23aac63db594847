"""Fits to interrupt and resume, by name, so that a new process can construct them again."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

import gpunn
from gpunn import schedules
from helpers.networks import build_network, network_builder
from helpers.snapshots import bits, state_of

RNG = np.random.default_rng(11)
ROWS = 29  # batches of 8 leave one of 5
X, LABELS = RNG.normal(size=(ROWS, 6)), RNG.integers(0, 3, size=ROWS)
VALUES = (X[:, :1] - 2 * X[:, 1:2] + 0.1 * RNG.normal(size=(ROWS, 1))).astype("float32")
VX, VLABELS = RNG.normal(size=(13, 6)), RNG.integers(0, 3, size=13)
VVALUES = VX[:, :1] - 2 * VX[:, 1:2]
WEIGHTS = np.linspace(0, 3, ROWS)
EPOCHS = 9


class Halve(gpunn.Callback):
    """Halves the learning rate if the loss is above its minimum, and counts the reductions."""

    def on_train_begin(self, logs=None):
        self.times, self.lowest, self.seen = 0, float("inf"), np.zeros(0)

    def on_epoch_end(self, epoch, logs=None):
        self.seen = np.append(self.seen, logs["loss"])
        if logs["loss"] > self.lowest or epoch in (1, 4):
            self.times += 1
            self.model.learning_rate = self.model.learning_rate / 2
        self.lowest = min(self.lowest, logs["loss"])
        # a NumPy number in the state must work like a Python number
        self.total = np.float32(self.times)

    def get_state(self):
        return {"times": self.times, "lowest": self.lowest, "seen": self.seen, "total": getattr(self, "total", 0.0)}

    def set_state(self, state):
        self.times, self.lowest, self.seen = state["times"], state["lowest"], state["seen"]
        assert len(self.seen) and state["total"] == self.times


class SetRatePerEpoch(gpunn.Callback):
    """Sets the rate of each epoch, and another rate and other weights at the beginning of the fit."""

    def on_train_begin(self, logs=None):
        self.model.learning_rate = 3.0
        self.model.set_weights([w + 1 for w in self.model.get_weights()])

    def on_epoch_begin(self, epoch, logs=None):
        self.model.learning_rate = 0.01 / (1 + epoch)


class Unfreeze(gpunn.Callback):
    """Unfreezes the first layer in the third epoch and reduces dropout in the fifth."""

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            self.model[0].trainable = True
        if epoch == 3:
            self.model[1].rate = 0.125


class Sometimes(gpunn.Callback):
    """Adds values to the history in some epochs only."""

    def on_epoch_logs(self, epoch, logs):
        if epoch < 2:
            logs["early"] = epoch / 4
        if epoch in (2, 3, 6):
            logs["late"] = epoch / 8


class Stop(gpunn.Callback):
    """Interrupts a fit with an error within an epoch."""

    passive = True

    class Now(Exception):
        """Raised before the second step."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch == self.epoch

    def on_train_batch_begin(self, batch, logs=None):
        if self.now and batch == 1:
            raise self.Now


CLASSIFIER = [
    gpunn.Dense(8, "relu", l2=0.01),
    gpunn.BatchNormalization(),
    gpunn.Dropout(0.3),
    gpunn.Dense(5, "tanh"),
    gpunn.Dense(3, "softmax"),
]
_classifier = network_builder(*CLASSIFIER, seed=2**63 + 5, metrics=["accuracy"])


def _plain(optimizer, **options):
    return _classifier(optimizer=optimizer), (X, LABELS), {"validation_data": (VX, VLABELS), **options}, []


def _regression(callbacks, optimizer=None, dtype="float64", **options):
    layers = [gpunn.Dense(7, "relu", max_norm=1.5), gpunn.LayerNormalization(), gpunn.Dropout(0.2, form="textbook")]
    chosen = {"optimizer": optimizer or gpunn.Adam(0.05), "loss": "half_squared_error", "metrics": ["mae", "rmse"]}
    net = build_network(*layers, gpunn.Dense(1, l1=0.001), input_shape=6, dtype=dtype, **chosen)
    return net, (X, VALUES), {"validation_data": (VX, VVALUES), **options}, callbacks


def _with_factors():
    net = _classifier(optimizer=gpunn.Adam(0.02))
    net[0].learning_rate_factor = 0.25
    return net, (X, LABELS), {"validation_data": (VX, VLABELS)}, []


def _unfrozen():
    layers = [gpunn.Dense(8, "relu"), gpunn.Dropout(0.5), gpunn.Dense(3, "softmax")]
    net = _classifier(*layers, optimizer=gpunn.Momentum(0.1))
    net[0].trainable = False
    return net, (X, LABELS), {}, [Unfreeze()]


def _after_another_fit():
    net, data, options, _ = _plain(gpunn.Adam(schedules.CosineDecay(0.05, 60)))
    net.fit(*data, epochs=2, batch_size=5, verbose=0)
    return net, data, options, []


def _streamed():
    def batches():
        for k in range(0, ROWS, 6):
            yield X[k : k + 6], LABELS[k : k + 6], WEIGHTS[k : k + 6] + 0.5

    return _classifier(optimizer=gpunn.Adam(0.02)), (batches,), {"validation_data": (VX, VLABELS)}, []


def _with_callbacks():
    """Metrics that are not means, and the other callbacks."""
    net = gpunn.Sequential([gpunn.Dense(8, "relu"), gpunn.Dropout(0.3), gpunn.Dense(1, "sigmoid")], seed=5)
    watched = ["accuracy", "auc", "precision", "recall", "f1"]
    net.compile(gpunn.Momentum(0.3), "binary_crossentropy", watched, device="cpu")
    callbacks = [
        gpunn.LearningRateScheduler(lambda epoch, rate: rate if epoch % 3 else 0.3 / (1 + epoch)),
        gpunn.ReduceLROnPlateau("val_auc", factor=0.5, patience=1),
        gpunn.EarlyStopping("val_auc", patience=20),
        gpunn.TerminateOnNaN(),
    ]
    data = X, (LABELS[:, None] > 0).astype(int)
    return net, data, {"validation_data": (VX, (VLABELS[:, None] > 0).astype(int))}, callbacks


def _overflowing():
    """An infinite validation loss, in the history and in the state of a callback."""
    net, data, _, _ = _regression([], dtype="float32")
    far = np.full((13, 1), 3e30)
    return net, data, {"validation_data": (VX, far)}, [gpunn.EarlyStopping("val_loss", patience=20)]


CASES = {
    "sgd": lambda: _plain(gpunn.SGD(0.1, clipvalue=0.05)),
    "momentum": lambda: _plain(gpunn.Momentum(0.1, momentum=0.8, clipnorm=0.5)),
    "nesterov": lambda: _plain(gpunn.Nesterov(0.1)),
    "rmsprop": lambda: _plain(gpunn.RMSprop(0.01)),
    "adagrad": lambda: _plain(gpunn.Adagrad(0.1, initial_accumulator_value=0.2)),
    "adam": lambda: _plain(gpunn.Adam(0.02)),
    "adamw": lambda: _plain(gpunn.AdamW(0.02, weight_decay=0.1)),
    "factors of the learning rate": _with_factors,
    "no shuffling": lambda: _plain(gpunn.Adam(0.02), shuffle=False),
    "sample and class weights": lambda: _plain(gpunn.Adam(0.02), sample_weight=WEIGHTS, class_weight={1: 3.0}),
    "a validation split": lambda: (*_plain(gpunn.Adam(0.02))[:2], {"validation_split": 0.2}, []),
    "one batch": lambda: _plain(gpunn.Adam(0.02), batch_size=100),
    "a schedule per step": lambda: _plain(gpunn.Adam(schedules.Warmup(schedules.CosineDecay(0.1, 25), 7))),
    "a schedule per epoch": lambda: _plain(gpunn.SGD(schedules.StepDecay(0.5, 2, 0.5, per="epoch"))),
    "a learning-rate override": lambda: _regression([Halve()]),
    "a rate per epoch": lambda: _regression([SetRatePerEpoch()], gpunn.Nesterov(0.1)),
    "two callbacks of a class": lambda: _regression([Halve(), gpunn.EarlyStopping("loss", patience=50), Halve()]),
    "a layer that is unfrozen": _unfrozen,
    "after another fit": _after_another_fit,
    "infinite values": _overflowing,
    "values in some epochs": lambda: _regression([Sometimes()]),
    "a stream": _streamed,
    "all metrics and callbacks": _with_callbacks,
    "early stopping": lambda: _regression([gpunn.EarlyStopping("val_mae", patience=2, min_delta=0.1)], gpunn.SGD(0.05)),
    "early stopping of a classifier": lambda: (
        *_plain(gpunn.Adam(0.1))[:3],
        [gpunn.EarlyStopping("val_accuracy", patience=3)],
    ),
    "early stopping without weights": lambda: (
        *_plain(gpunn.Adam(0.1))[:3],
        [gpunn.EarlyStopping(patience=3, restore_best_weights=False, start_from_epoch=1)],
    ),
}


def run(name, path=None, *, stop=None, resume=False, epochs=EPOCHS):
    """Run a case: with checkpoints at `path`, interrupted in epoch `stop`, or resumed. Return network and history."""
    net, data, options, callbacks = CASES[name]()
    if path is not None:
        callbacks = [gpunn.ModelCheckpoint(path), *callbacks]
    if stop is not None:
        callbacks = [*callbacks, Stop(stop)]
    options = {"verbose": 0, **options} if callable(data[0]) else {"batch_size": 8, "verbose": 0, **options}
    history = None
    try:
        history = net.fit(*data, epochs=epochs, callbacks=callbacks, resume=path if resume else None, **options)
    except Stop.Now:
        assert stop is not None
    return net, history, callbacks


def outcome(net, history):
    """Return the complete result of a fit, bit by bit."""
    curves = {name: bits(np.array(values)) for name, values in history.history.items()}
    return repr((state_of(net), curves, history.epoch, [c.hex() for c in history.history["loss"]]))


def main(folder):
    """Resume every case from its file and print the results."""
    done = {}
    for name in CASES:
        net, history, _ = run(name, Path(folder) / f"{name}.safetensors", resume=True)
        done[name] = outcome(net, history)
    print(json.dumps(done))


if __name__ == "__main__":
    main(sys.argv[1])
