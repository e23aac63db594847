"""Invalid constructor arguments and `compile` arguments raise an error that names the argument.

Each case gives the input and the required parts of the message: the argument, the value, the requirement.
"""

import copy

import numpy as np
import pytest
from helpers.bad_input import COLUMNS, INF, LABELS, NAN, RNG, X, assert_rejected, make_net
from helpers.messages import naming
from helpers.snapshots import assert_unchanged, state_of

import gpunn
from gpunn import losses

# --- building --------------------------------------------------------------------------------------------------------

INTEGERS = {
    "0": (0, ValueError, "an integer ≥ 1, got 0"),
    "-1": (-1, ValueError, "an integer ≥ 1, got -1"),
    "2.5": (2.5, TypeError, "an integer, got 2.5"),
    "2.0": (2.0, TypeError, "an integer, got 2.0"),
    "True": (True, TypeError, "an integer, got True"),
    "'10'": ("10", TypeError, "an integer, got '10'"),
    "nan": (NAN, TypeError, "an integer, got nan"),
    "[3]": ([3], TypeError, r"an integer, got \[3\]"),
    "array([3])": (np.array([3]), TypeError, r"an integer, got array\(\[3\]\)"),
}


@pytest.mark.parametrize(("value", "error", "message"), INTEGERS.values(), ids=INTEGERS)
def test_counts(value, error, message):
    assert_rejected(lambda: gpunn.Dense(value), error, naming("units") + ".*" + message)
    net = gpunn.Sequential([gpunn.Dense(2)])
    assert_rejected(lambda: net.build(value), error, naming("n_in") + ".*" + message)
    if value != [3]:
        assert_rejected(
            lambda: gpunn.Sequential([gpunn.Dense(2)], input_shape=value), error, naming("input_shape") + ".*" + message
        )
        assert_rejected(lambda: net.compile("sgd", "mse", threads=value), error, naming("threads") + ".*" + message)
    with pytest.raises(RuntimeError, match="no weights yet"):
        net.get_weights()


BAD_MAKING = {
    # layers
    "units=None": (lambda: gpunn.Dense(None), TypeError, naming("units", None)),
    "an unknown activation": (
        lambda: gpunn.Dense(2, "rellu"),
        ValueError,
        naming("activation", "'rellu'", "leaky_relu"),
    ),
    "an activation that is a function": (
        lambda: gpunn.Dense(2, np.tanh),
        TypeError,
        naming("activation", "subclass"),
    ),
    "activation=5": (lambda: gpunn.Activation(5), TypeError, naming("activation", "gpunn.activations")),
    "an unknown initializer": (
        lambda: gpunn.Dense(2, kernel_initializer="xavier"),
        ValueError,
        naming("initializer", "'xavier'", "glorot_normal", "he_normal"),
    ),
    "kernel_initializer=5": (lambda: gpunn.Dense(2, kernel_initializer=5), TypeError, "initializer"),
    "use_bias='no'": (lambda: gpunn.Dense(2, use_bias="no"), ValueError, naming("use_bias", "'no'")),
    "l2=-1": (lambda: gpunn.Dense(2, l2=-1), ValueError, naming("l2", -1)),
    "l2=nan": (lambda: gpunn.Dense(2, l2=NAN), ValueError, naming("l2", "nan")),
    "l1='0.1'": (lambda: gpunn.Dense(2, l1="0.1"), ValueError, naming("l1", "'0.1'")),
    "l1=inf": (lambda: gpunn.Dense(2, l1=INF), ValueError, naming("l1", "inf")),
    "l1=True": (lambda: gpunn.Dense(2, l1=True), ValueError, naming("l1", True)),
    "max_norm=0": (lambda: gpunn.Dense(2, max_norm=0), ValueError, naming("max_norm", "got 0", "> 0", "None")),
    "max_norm=-1": (lambda: gpunn.Dense(2, max_norm=-1), ValueError, naming("max_norm", -1)),
    "rate=1": (lambda: gpunn.Dropout(1), ValueError, naming("rate", "got 1")),
    "rate=-0.1": (lambda: gpunn.Dropout(-0.1), ValueError, naming("rate", -0.1)),
    "form='other'": (
        lambda: gpunn.Dropout(0.5, form="other"),
        ValueError,
        "form must be 'inverted' or 'textbook', got",
    ),
    "momentum=2": (lambda: gpunn.BatchNormalization(2), ValueError, naming("momentum", 2)),
    "epsilon=0": (lambda: gpunn.LayerNormalization(0), ValueError, naming("epsilon", "got 0")),
    # the network
    "no layers": (lambda: gpunn.Sequential([]), ValueError, naming("layers", "empty")),
    "layers=None": (lambda: gpunn.Sequential(None), TypeError, naming("layers", None)),
    "layers=one": (lambda: gpunn.Sequential(gpunn.Dense(2)), TypeError, naming("layers", "Dense(2)")),
    "layers=['Dense']": (lambda: gpunn.Sequential(["Dense"]), TypeError, naming("layers[0]", "str")),
    "layers=[class]": (
        lambda: gpunn.Sequential([gpunn.Dense]),
        TypeError,
        naming("layers[0]", "type"),
    ),
    "an optimizer as a layer": (
        lambda: gpunn.Sequential([gpunn.Dense(2), gpunn.SGD()]),
        TypeError,
        r"layers\[1\] .*got SGD",
    ),
    "input_shape=(2, 3)": (
        lambda: gpunn.Sequential([gpunn.Dense(2)], input_shape=(2, 3)),
        ValueError,
        naming("input_shape", "(inputs,)", "(2, 3)"),
    ),
    "input_shape=()": (lambda: gpunn.Sequential([gpunn.Dense(2)], input_shape=()), ValueError, "input_shape must be"),
    "input_shape=(0,)": (
        lambda: gpunn.Sequential([gpunn.Dense(2)], input_shape=(0,)),
        ValueError,
        "input_shape .*got 0",
    ),
    "seed=-1": (
        lambda: gpunn.Sequential([gpunn.Dense(2)], seed=-1),
        ValueError,
        r"seed must be in \[0, 2⁶⁴\), got -1",
    ),
    "seed=2**64": (lambda: gpunn.Sequential([gpunn.Dense(2)], seed=2**64), ValueError, "seed must be in"),
    "seed=1.0": (
        lambda: gpunn.Sequential([gpunn.Dense(2)], seed=1.0),
        TypeError,
        naming("seed", 1.0),
    ),
    "seed=True": (
        lambda: gpunn.Sequential([gpunn.Dense(2)], seed=True),
        TypeError,
        naming("seed", True),
    ),
    "seed='0'": (
        lambda: gpunn.Sequential([gpunn.Dense(2)], seed="0"),
        TypeError,
        naming("seed", "'0'"),
    ),
    "seed=generator": (
        lambda: gpunn.Sequential([gpunn.Dense(2)], seed=RNG),
        TypeError,
        naming("seed", "Generator"),
    ),
    **{
        f"dtype={d!r}": (
            lambda d=d: gpunn.Sequential([gpunn.Dense(2)], dtype=d),
            ValueError,
            "dtype must be 'float32' or 'float64', got",
        )
        for d in ("float16", "int32", None, 5, "complex64", ">f4")
    },
    # losses and optimizers
    "Huber(0)": (lambda: losses.Huber(0), ValueError, naming("delta", "got 0")),
    "Huber(nan)": (lambda: losses.Huber(NAN), ValueError, naming("delta", "nan")),
    "Huber('1')": (lambda: losses.Huber("1"), ValueError, naming("delta", "'1'")),
    "from_logits='yes'": (
        lambda: losses.BinaryCrossentropy("yes"),
        ValueError,
        naming("from_logits", "'yes'"),
    ),
    **{
        f"{cls.__name__}({rate!r})": (lambda cls=cls, rate=rate: cls(rate), error, "learning_rate must be ")
        for cls in (gpunn.SGD, gpunn.Adam)
        for rate, error in (
            (0, ValueError),
            (-1, ValueError),
            (NAN, ValueError),
            (INF, ValueError),
            ("0.1", TypeError),
            (True, TypeError),
            (None, TypeError),
            ([0.1], TypeError),
        )
    },
    "momentum=1": (
        lambda: gpunn.Momentum(0.1, momentum=1),
        ValueError,
        naming("momentum", "got 1"),
    ),
    "beta_1=1": (lambda: gpunn.Adam(beta_1=1), ValueError, naming("beta_1", "got 1")),
    "clipnorm=0": (lambda: gpunn.SGD(clipnorm=0), ValueError, naming("clipnorm", "got 0")),
    "clipvalue=-1": (lambda: gpunn.SGD(clipvalue=-1), ValueError, naming("clipvalue", -1)),
    "weight_decay=-1": (
        lambda: gpunn.AdamW(weight_decay=-1),
        ValueError,
        naming("weight_decay", -1),
    ),
}


@pytest.mark.parametrize(("make", "error", "message"), BAD_MAKING.values(), ids=BAD_MAKING)
def test_constructors(make, error, message):
    assert_rejected(make, error, message)


# --- compiling -------------------------------------------------------------------------------------------------------

KNOWN_LOSSES = "binary_crossentropy, categorical_crossentropy, half_squared_error, huber, log_cosh"
BAD_COMPILE = {
    "an unknown optimizer": (
        {"optimizer": "sdg"},
        ValueError,
        naming("optimizer", "'sdg'", "adam", "momentum"),
    ),
    "optimizer=None": (
        {"optimizer": None},
        TypeError,
        naming("optimizer", "gpunn.optimizers.Optimizer", "NoneType"),
    ),
    "optimizer=0.1": ({"optimizer": 0.1}, TypeError, naming("optimizer", "float")),
    "an unknown loss": (
        {"loss": "crossentropy"},
        ValueError,
        f"loss 'crossentropy' is unknown; did you mean '[a-z_]+'\\? there are {KNOWN_LOSSES}",
    ),
    "loss=None": ({"loss": None}, TypeError, naming("loss", "missing")),
    "loss=5": ({"loss": 5}, TypeError, naming("loss", "gpunn.losses.Loss", "int")),
    "an unknown metric": (
        {"metrics": ["accurate"]},
        ValueError,
        naming("metric", "'accurate'", "accuracy"),
    ),
    "metrics as text": ({"metrics": "accuracy"}, TypeError, naming("metrics", "metrics=['accuracy']")),
    "metrics=None": ({"metrics": None}, TypeError, naming("metrics", None)),
    "metrics=[5]": ({"metrics": [5]}, TypeError, naming("metrics", "gpunn.metrics.Metric", "int")),
    "a metric twice": ({"metrics": ["accuracy", "accuracy"]}, ValueError, naming("metrics", "different names")),
    "a metric called loss": (
        {"metrics": [gpunn.metrics.Accuracy(name="loss")]},
        ValueError,
        naming("metrics", "'loss'", "different names"),
    ),
    "a metric of values for labels": (
        {"metrics": ["mae"]},
        ValueError,
        naming("metric", "'mae'", "'sparse_categorical_crossentropy'"),
    ),
    "accuracy of one value": (
        {"loss": "mse", "metrics": ["accuracy"], "outputs": 1, "last": None},
        ValueError,
        naming("'accuracy'", "'mean_squared_error'", "one output"),
    ),
    "a loss that does not fit": (
        {"last": "relu"},
        ValueError,
        naming("softmax", "got relu"),
    ),
    "sigmoid before softmax's loss": ({"last": "sigmoid"}, ValueError, "needs softmax .*got sigmoid"),
    "softmax before sigmoid's loss": ({"loss": "binary_crossentropy"}, ValueError, "needs sigmoid .*got softmax"),
    "from_logits=True after softmax": (
        {"loss": losses.SparseCategoricalCrossentropy(from_logits=True)},
        ValueError,
        naming("from_logits=True", "softmax", "probabilities"),
    ),
    "from_logits=False after no activation": (
        {"loss": losses.SparseCategoricalCrossentropy(from_logits=False), "last": None},
        ValueError,
        "from_logits=",
    ),
    "precision='tf32' on a CPU": (
        {"precision": "tf32", "device": "cpu"},
        ValueError,
        naming("precision='tf32'", "GPUs", "leave precision out"),
    ),
    "precision='bf16' on a CPU": ({"precision": "bf16", "device": "cpu"}, ValueError, "precision='bf16' is for GPUs"),
    "precision='half'": ({"precision": "half"}, ValueError, "precision must be None, 'tf32' or 'bf16', got 'half'"),
    "precision='float64' of a float32 net": (
        {"precision": "float64"},
        ValueError,
        naming("precision='float64'", "float32", "dtype='float64'"),
    ),
    "an unknown device": ({"device": "gpu"}, ValueError, "device.*'gpu'"),
    "device=0": ({"device": 0}, TypeError, "device"),
}


@pytest.mark.parametrize("built", [True, False])
@pytest.mark.parametrize(("given", "error", "message"), BAD_COMPILE.values(), ids=BAD_COMPILE)
def test_compile(given, error, message, built):
    given = dict(given)
    layers = [gpunn.Dense(5, "relu"), gpunn.Dense(given.pop("outputs", 3), given.pop("last", "softmax"))]
    net = gpunn.Sequential(layers, input_shape=COLUMNS if built else None, seed=1)
    arguments = {"optimizer": "adam", "loss": "sparse_categorical_crossentropy"} | given
    before = state_of(net)
    assert_rejected(lambda: net.compile(**arguments), error, message)
    assert state_of(net) == before
    with pytest.raises(RuntimeError, match="compile"):
        net.evaluate(X, LABELS)


@pytest.mark.parametrize("case", [c for c in BAD_COMPILE if not {"outputs", "last"} & set(BAD_COMPILE[c][0])])
def test_a_rejected_compile_changes_nothing(case):
    given, error, message = BAD_COMPILE[case]
    net = make_net()
    net.fit(X, LABELS, verbose=0)
    optimizer, loss = net.optimizer, net.loss
    twin = copy.deepcopy(net)
    with assert_unchanged(net, X):
        assert_rejected(lambda: net.compile(**{"optimizer": "sgd", "loss": loss} | given), error, message)
    assert net.optimizer is optimizer and net.loss is loss
    if net.device == "cpu":
        assert net.fit(X, LABELS, verbose=0).history == twin.fit(X, LABELS, verbose=0).history


def test_there_are_many_cases():
    assert len(INTEGERS) + len(BAD_MAKING) + len(BAD_COMPILE) >= 75


UNKNOWN_KEYWORDS = {
    "another library's name": (lambda: gpunn.Adam(lr=0.1), "Adam has no argument 'lr'; did you mean learning_rate?"),
    "an argument of another class": (
        lambda: gpunn.SGD(0.1, momentum=0.9),
        r"SGD has no argument 'momentum'; did you mean gpunn\.Momentum\(momentum=…\)\?",
    ),
    "of AdamW": (lambda: gpunn.Adam(weight_decay=0.1), "Adam has no .*'weight_decay'.*AdamW"),
    "a misspelled one of the base class": (lambda: gpunn.AdamW(clip_norm=1.0), "AdamW has no .*'clip_norm'.*clipnorm"),
    "of a layer": (lambda: gpunn.Dense(2, activaton="relu"), "Dense has no .*'activaton'.*did you mean activation"),
    "of a schedule": (
        lambda: gpunn.schedules.CosineDecay(0.1, decay_step=9),
        "CosineDecay has no argument 'decay_step'; did you mean decay_steps?",
    ),
    "one like no other": (
        lambda: gpunn.Dropout(0.5, xyz=1),
        "Dropout has no argument 'xyz'; its arguments are rate, form",
    ),
    "of a callback": (
        lambda: gpunn.EarlyStopping(patiense=3),
        "EarlyStopping has no argument 'patiense'; did you mean patience?",
    ),
    "of a class of the user": (lambda: _Slow(learning_rat=1), "_Slow has no argument 'learning_rat'; did you mean"),
}


class _Slow(gpunn.Adam):
    def __init__(self, learning_rate=1e-4, **options):
        super().__init__(learning_rate, **options)


@pytest.mark.parametrize(("make", "message"), UNKNOWN_KEYWORDS.values(), ids=UNKNOWN_KEYWORDS)
def test_an_unknown_keyword_names_the_class_and_a_similar_argument(make, message):
    with pytest.raises(TypeError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "suggestion"),
    [
        (lambda: gpunn.Dense(2, "rleu"), "'relu'"),
        (lambda: gpunn.losses.get("crossentropy_binary"), "'binary_crossentropy'"),
        (lambda: gpunn.optimizers.get("adma"), "'adam'"),
        (lambda: gpunn.metrics.get("acuracy"), "'accuracy'"),
        (lambda: gpunn.initializers.get("he_norml"), "'he_normal'"),
    ],
)
def test_an_unknown_name_suggests_a_similar_one(make, suggestion):
    with pytest.raises(ValueError, match=f"is unknown; did you mean {suggestion}\\? there are"):
        make()
