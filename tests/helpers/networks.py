"""Networks for tests."""

import copy

import gpunn


def build_network(
    *layers,
    input_shape=None,
    seed=3,
    dtype="float32",
    optimizer="adam",
    loss="sparse_categorical_crossentropy",
    metrics=(),
    device="cpu",
    **options,
):
    """Build and compile a network of these layers. Options: precision, threads, strategy."""
    net = gpunn.Sequential(layers, input_shape=input_shape, seed=seed, dtype=dtype)
    return net.compile(optimizer, loss, metrics, device=device, **options)


def network_builder(*default_layers, **defaults):
    """Return a function that builds one new network per call, from copies of the default layers and options.

    The layers and the options of a call replace the default ones.
    """

    def build(*layers, **options):
        copies, options_of_call = copy.deepcopy((default_layers, defaults))
        return build_network(*layers or copies, **options_of_call | options)

    return build


def classifier_builder(*hidden, **defaults):
    """Return a function that builds classifiers with these hidden layers, 4 inputs and 3 classes."""
    defaults = {"input_shape": 4, "metrics": ["accuracy"]} | defaults
    return network_builder(*hidden, gpunn.Dense(3, "softmax"), **defaults)
