"""The cases of networks, by subject."""

from __future__ import annotations

from typing import Any

from .builders import (
    ADAM,
    BATCH_NORMALIZATION,
    BEFORE_NORMALIZATION,
    LABELS,
    MOMENTUM,
    SGD,
    VALUES,
    Case,
    activation,
    dense,
    fit,
    loss,
    metric,
    network,
    new,
    schedule,
)


def hidden_activations() -> list[Case]:
    """Every activation in hidden layers."""
    names: dict[str, Any] = {
        n: n for n in ("relu", "elu", "gelu", "silu", "selu", "mish", "softplus", "sigmoid", "tanh", "identity")
    }
    names |= {
        "exponential": "exponential",
        "softmax": "softmax",
        "leaky-relu": "leaky_relu",
        "leaky-relu-0.25": activation("LeakyReLU", alpha=0.25),
        "elu-0.5": activation("ELU", alpha=0.5),
        "own": {"own": "cubic"},
    }
    # clipped, since the exponential's outputs are large
    rule = new("Momentum", 0.03125, clipnorm=0.5)
    return [
        network(f"activation-{name}", [dense(6, f), dense(4, f), dense(2)], "values 2", VALUES, rule)
        for name, f in names.items()
    ]


def optimizers() -> list[Case]:
    """Every optimizer, with and without clipping."""
    rules = {
        "sgd": new("SGD", 0.125),
        "momentum": new("Momentum", 0.0625, 0.75),
        "nesterov": new("Nesterov", 0.0625, 0.75),
        "rmsprop": new("RMSprop", 0.0078125, rho=0.75),
        "adagrad": new("Adagrad", 0.0625),
        "adam": new("Adam", 0.015625, beta_1=0.75, beta_2=0.96875),
        "adamw": new("AdamW", 0.015625, weight_decay=0.125),
        "adamw-weights-only": new("AdamW", 0.015625, weight_decay=0.125, decay_weights_only=True),
        "sgd-clipvalue": new("SGD", 0.125, clipvalue=0.0625),
        "momentum-clipnorm": new("Momentum", 0.125, clipnorm=0.25),
        "adam-clipnorm": new("Adam", 0.015625, clipnorm=0.5),
        "nesterov-both-clippings": new("Nesterov", 0.125, clipvalue=0.125, clipnorm=0.25),
    }
    return [
        network(
            f"optimizer-{name}",
            [dense(7, "tanh", l2=0.03125), dense(3)],
            "labels 3",
            LABELS,
            rule,
            fit(3, shuffle=True),
            metrics=["accuracy"],
            first_step=name == "sgd",
        )
        for name, rule in rules.items()
    ]


def schedules() -> list[Case]:
    """Every learning rate schedule."""
    schedules = {
        "constant": schedule("Constant", 0.125),
        "step": schedule("StepDecay", 0.25, 2, 0.5),
        "step-by-epoch": schedule("StepDecay", 0.25, 1, 0.5, per="epoch"),
        "exponential": schedule("ExponentialDecay", 0.25, 3, 0.5),
        "exponential-staircase": schedule("ExponentialDecay", 0.25, 3, 0.5, staircase=True),
        "inverse-time": schedule("InverseTimeDecay", 0.25, 2, 0.5),
        "cosine": schedule("CosineDecay", 0.25, 7, 0.125),
        "piecewise": schedule("PiecewiseConstant", [2, 5], [0.25, 0.125, 0.0625]),
        "warmup": schedule("Warmup", schedule("CosineDecay", 0.25, 5), 3),
        "warmup-by-epoch": schedule("Warmup", 0.25, 2, per="epoch"),
    }
    return [
        network(
            f"schedule-{name}",
            [dense(4, "tanh"), dense(1)],
            "values 1",
            "mse",
            new("SGD", s),
            fit(3),
            first_step=name == "constant",
        )
        for name, s in schedules.items()
    ]


def regression_losses() -> list[Case]:
    """Losses on values and counts."""
    values = {
        "half-squared-error": (VALUES, None),
        "mean-squared-error": ("mean_squared_error", "sigmoid"),
        "mean-absolute-error": ("mean_absolute_error", None),
        "huber": ("huber", None),
        "huber-0.25": (loss("Huber", delta=0.25), "tanh"),
        "log-cosh": ("log_cosh", None),
        "own": ({"own": "quartic"}, None),
    }
    cases = [
        network(
            f"loss-{name}",
            [dense(6, "tanh"), dense(3, last)],
            "values 3",
            which,
            ADAM,
            metrics=["mae", "mse", "rmse", "r2"],
            sample_weight=name in ("huber", "log-cosh"),
        )
        for name, (which, last) in values.items()
    ]
    return [
        *cases,
        network("loss-poisson", [dense(5, "tanh"), dense(2, "softplus")], "counts 2", "poisson", sample_weight=True),
        network("loss-poisson-exponential", [dense(5, "tanh"), dense(2, "exponential")], "counts 2", "poisson"),
    ]


def cross_entropies() -> list[Case]:
    """Cross-entropies of probabilities and logits."""
    cases = []
    of_classes = ["accuracy", "precision", "recall", "f1", "auc"]
    cross_entropies: dict[str, tuple[str, str, str, list[Any]]] = {
        "sparse": (LABELS, "softmax", "labels 4", [*of_classes, metric("TopKCategoricalAccuracy", k=2)]),
        "categorical": ("categorical_crossentropy", "softmax", "probabilities 4", of_classes),
        "binary": ("binary_crossentropy", "sigmoid", "binary 2", [*of_classes[:3], metric("F1Score", average="micro")]),
    }
    for name, (which, last, targets, metrics) in cross_entropies.items():
        width = int(targets.split()[1])
        for form, output in (("probabilities", last), ("logits", None)):
            cases.append(
                network(
                    f"loss-{name}-{form}",
                    [dense(6, "tanh"), dense(width, output)],
                    targets,
                    which,
                    ADAM,
                    metrics=metrics,
                    sample_weight=form == "logits",
                    explain=["predict_proba", "predict_classes"] if form == "logits" else None,
                )
            )
    # the loss gets probabilities that are not fused with their activation
    unmerged = {
        "sparse": ("SparseCategoricalCrossentropy", "sigmoid", "labels 3"),
        "categorical": ("CategoricalCrossentropy", "sigmoid", "onehot 3"),
        "binary": ("BinaryCrossentropy", "softmax", "binary 3"),
    }
    cases += [
        network(
            f"loss-{name}-unmerged", [dense(5, "tanh"), dense(3, last)], targets, loss(which, from_logits=False), SGD
        )
        for name, (which, last, targets) in unmerged.items()
    ]
    logits = loss("SparseCategoricalCrossentropy", from_logits=True)
    return [*cases, network("loss-sparse-of-tanh", [dense(3, "tanh")], "labels 3", logits)]


def smoothed_cross_entropies() -> list[Case]:
    """Cross-entropies with label smoothing."""
    return [
        network(f"loss-{name}-smoothed", [dense(4, "softmax")], targets, loss(which, label_smoothing=0.125), SGD)
        for name, which, targets in (
            ("sparse", "SparseCategoricalCrossentropy", "labels 4"),
            ("categorical", "CategoricalCrossentropy", "probabilities 4"),
        )
    ]


def layers() -> list[Case]:
    """Layers and dropout."""
    return [
        network("one-layer", [dense(1)], "values 1", VALUES, SGD, explain=["predict"]),
        network(
            "deep-seen-inside",
            [dense(5, "relu"), dense(4, "sigmoid"), new("LayerNormalization"), dense(3, "softmax")],
            "labels 3",
            LABELS,
            ADAM,
            explain=["predict_proba", "predict_classes"],
        ),
        network(
            "activation-layers",
            [dense(6), new("Activation", "silu"), dense(3), new("Activation", "softmax")],
            "onehot 3",
            "categorical_crossentropy",
            ADAM,
        ),
        network("dropout", [dense(8, "relu"), new("Dropout", 0.375), dense(2)], "values 2", VALUES, MOMENTUM),
        # the rectifier and the rounding of codes make levels 0 … 5 of the inputs
        network(
            "embedding",
            [new("Activation", "relu"), new("Embedding", [3, 1], [6, 6], [1, 3], l2=0.0625), dense(2)],
            "values 2",
            VALUES,
            MOMENTUM,
        ),
        network(
            "dropout-textbook-of-inputs",
            [new("Dropout", 0.25, form="textbook"), dense(6, "tanh"), new("Dropout", 0.5), dense(3)],
            "labels 3",
            LABELS,
            ADAM,
            fit(2, shuffle=True),
        ),
    ]


def normalization() -> list[Case]:
    """Batch normalization."""
    return [
        network(
            "batch-normalization",
            [dense(6, "relu", **BEFORE_NORMALIZATION), BATCH_NORMALIZATION, dense(3)],
            "labels 3",
            LABELS,
            MOMENTUM,
            fit(2, validation=9),
        ),
        network(
            "batch-normalization-between",
            [
                dense(5, **BEFORE_NORMALIZATION),
                new("BatchNormalization", momentum=0.25, epsilon=0.0009765625),
                new("Activation", "gelu"),
                dense(2),
            ],
            "values 2",
            VALUES,
            SGD,
            sample_weight=True,
        ),
        network("batch-normalization-of-inputs", [BATCH_NORMALIZATION, dense(2, "tanh")], "values 2", VALUES, SGD),
        network(
            "batch-normalization-frozen",
            [dense(4, "tanh"), BATCH_NORMALIZATION, dense(2)],
            "values 2",
            VALUES,
            SGD,
            fit(1),
            fit(1, freeze=[1]),
            fit(1, unfreeze=[1]),
        ),
    ]


def layer_arguments() -> list[Case]:
    """Layer normalization, missing intercepts, penalties and constraints."""
    return [
        network(
            "layer-normalization",
            [dense(6, "elu"), new("LayerNormalization", epsilon=0.0009765625), dense(3)],
            "labels 3",
            LABELS,
            ADAM,
        ),
        network(
            "periodic-embedding",
            [new("PeriodicEmbedding", [1, 2, 0], 2), dense(5, "tanh"), dense(3)],
            "labels 3",
            LABELS,
            ADAM,
        ),
        network(
            "no-intercepts", [dense(5, "sigmoid", use_bias=False), dense(2, use_bias=False)], "values 2", VALUES, ADAM
        ),
        network(
            "penalties",
            [dense(6, "tanh", l2=0.125), dense(5, "relu", l1=0.0625), dense(2, l1=0.03125, l2=0.0625)],
            "values 2",
            VALUES,
            MOMENTUM,
            sample_weight=True,
        ),
        network(
            "max-norm",
            [dense(6, "relu", max_norm=0.75), dense(3, max_norm=0.5)],
            "labels 3",
            LABELS,
            new("SGD", 0.25),
            fit(2, shuffle=True),
        ),
    ]


def combined() -> list[Case]:
    """Many kinds of layers together."""
    return [
        network(
            "everything",
            [
                new("LayerNormalization"),
                dense(6, "gelu", l2=0.03125, max_norm=2.0),
                new("Dropout", 0.25),
                dense(5, **BEFORE_NORMALIZATION),
                BATCH_NORMALIZATION,
                new("Activation", "tanh"),
                dense(3, l1=0.0078125),
            ],
            "labels 3",
            LABELS,
            new("AdamW", schedule("Warmup", schedule("CosineDecay", 0.03125, 8), 2), clipnorm=1.0),
            fit(3, shuffle=True, validation=7),
            metrics=["accuracy", "f1"],
            sample_weight=True,
        ),
    ]


def initial_weights() -> list[Case]:
    """Weights as gpunn draws them: these depend on NumPy's normal and uniform numbers from Philox."""
    names = ["he_normal", "he_uniform", "lecun_normal", "lecun_uniform", "glorot_normal", "glorot_uniform"]
    objects = [
        new("initializers.Orthogonal", gain=0.5),
        new("initializers.Normal", 0.25, 0.5),
        new("initializers.Uniform", -0.5, 0.25),
        new("initializers.Constant", 0.25),
    ]
    layers = [dense(4, "tanh", kernel_initializer=i) for i in [*names, *objects]]
    layers.append(dense(1, "relu", bias_initializer="ones"))
    layers.append(dense(2, bias_initializer="zeros"))
    return [
        network("initial-weights", layers, "values 2", VALUES, new("SGD", 1e-3), fit(1), drawn=True, seed=11),
        network("initial-weights-by-default", [dense(5, "relu"), dense(3)], "labels 3", LABELS, drawn=True, seed=12),
    ]


def frozen_and_changed() -> list[Case]:
    """Frozen layers, repeated fits, and changes between fits."""
    layers = [dense(5, "relu"), dense(4, "tanh", l2=0.0625), dense(3)]
    clipped = new("Momentum", 0.125, clipnorm=0.25)
    less_momentum = fit(1, set={"optimizer": {"momentum": 0.25}})
    class_weight = [[0, 0.5], [2, 3.0]]

    def case(name: str, optimizer: Any, *phases: dict[str, Any], first_step: bool = False, **options: Any) -> Case:
        return network(name, layers, "labels 3", LABELS, optimizer, *phases, first_step=first_step, **options)

    return [
        case("frozen", ADAM, frozen=[0], first_step=True),
        case("frozen-middle", clipped, frozen=[1], first_step=True),
        case("frozen-later", clipped, fit(1), fit(2, freeze=[0])),
        case("frozen-then-compiled", SGD, fit(1), fit(1, freeze=[0], compile={"optimizer": clipped})),
        case("compiled-then-frozen", SGD, fit(1), {"compile": {"optimizer": clipped}}, fit(1, freeze=[0])),
        case("unfrozen", clipped, fit(1), fit(1, unfreeze=[0]), frozen=[0]),
        case("two-fits", ADAM, fit(1, shuffle=True), fit(2, shuffle=True)),
        case("compiled-again", ADAM, fit(1), fit(1, compile={"optimizer": MOMENTUM})),
        case("another-rate", MOMENTUM, fit(1), fit(1, learning_rate=0.015625)),
        case("another-momentum", MOMENTUM, fit(1), less_momentum),
        case("batches", ADAM, {"batches": 8}, {"batches": 5, "class_weight": class_weight}),
        case("batches-after-a-fit", clipped, fit(1), {"batches": 9}, fit(1), sample_weight=True),
    ]


def data() -> list[Case]:
    """Weights and validation data."""
    layers = [dense(6, "relu"), dense(3)]
    labels = ("labels 3", LABELS)
    return [
        network("sample-weights", layers, *labels, ADAM, fit(2, shuffle=True), sample_weight=True),
        network("class-weights", layers, *labels, ADAM, fit(2, class_weight=[[0, 0.5], [1, 1.0], [2, 4.0]])),
        network("class-weights-balanced", layers, *labels, ADAM, fit(2, class_weight="balanced"), sample_weight=True),
        network("validation-data", layers, *labels, ADAM, fit(2, validation=11), metrics=["auc"], sample_weight=True),
        network("validation-split", layers, *labels, ADAM, fit(2, validation_split=0.25), metrics=["accuracy"]),
    ]


def streams_and_sparse_inputs() -> list[Case]:
    """Streams and sparse matrices."""
    layers = [dense(6, "relu"), dense(3)]
    labels = ("labels 3", LABELS)
    return [
        network("stream", layers, *labels, MOMENTUM, {"epochs": 2}, input="stream"),
        network(
            "stream-weighted",
            [dense(4, "tanh"), new("Dropout", 0.25), dense(2)],
            "values 2",
            "mse",
            ADAM,
            {"epochs": 2, "steps_per_epoch": 3, "validation": 6},
            input="stream",
            sample_weight=True,
        ),
        network("sparse-input", layers, *labels, ADAM, fit(2, shuffle=True), input="sparse"),
        network(
            "sparse-input-weighted",
            [dense(5, "tanh", l2=0.0625), dense(2)],
            "values 2",
            VALUES,
            SGD,
            fit(2, validation_split=0.25),
            input="sparse",
            sample_weight=True,
        ),
    ]


def sizes_and_callbacks() -> list[Case]:
    """Batch sizes, callbacks, and networks trained together."""
    layers = [dense(6, "relu"), dense(3)]
    labels = ("labels 3", LABELS)
    watch = {"monitor": "val_loss", "mode": "max"}  # "max" on a falling loss: no epoch is an improvement
    return [
        network("one-batch", layers, *labels, ADAM, fit(3, 64)),
        network("single-rows", layers, *labels, SGD, fit(1, 1), rows=12),
        network("many-rows", [dense(3, "tanh"), dense(2)], "values 2", VALUES, SGD, fit(1, 64, True), rows=300),
        network("wide-input", [dense(2, "relu"), dense(1)], "values 1", VALUES, SGD, n_in=67),
        network(
            "early-stopping",
            layers,
            *labels,
            SGD,
            fit(5, validation=8, callbacks=[new("EarlyStopping", patience=1, start_from_epoch=1, **watch)]),
        ),
        network(
            "reduce-on-plateau",
            layers,
            *labels,
            SGD,
            fit(4, validation=8, callbacks=[new("ReduceLROnPlateau", factor=0.5, patience=1, **watch)]),
        ),
        network(
            "rate-by-callback",
            layers,
            *labels,
            SGD,
            fit(3, callbacks=[new("LearningRateScheduler", {"own": "falling"})]),
        ),
        {
            **network("trained-together", layers, *labels, ADAM, sample_weight=True, drawn=True),
            "kind": "many",
            "phases": [{"epochs": 2, "batch_size": 8}],
            "candidates": [{"seed": 1}, {"seed": 2, "lr": 0.0625}, {"seed": 3, "l2": 0.125}],
        },
    ]
