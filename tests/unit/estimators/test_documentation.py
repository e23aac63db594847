"""The docstrings of the estimators describe every parameter, in the order of the constructor and with its default."""

import doctest
import inspect
import re

import pytest
from helpers.oracles import oracle

import gpunn

oracle("sklearn")
OWN = {"loss", "out_activation", "class_weight"}  # with a meaning that depends on the kind of target


def _documented(cls):
    """(default, description) of every parameter in a docstring, by name."""
    section = re.search(r"^Parameters\n-+\n(.*?)\n\nAttributes\n", inspect.getdoc(cls), re.M | re.S)[1]
    found = {}
    for names, kind, text in re.findall(r"^(\w[\w, ]*) : (.*)\n((?: {4}.*\n?)+)", section, re.M):
        defaults = re.search("default=(.*)$", kind)
        each = defaults[1].split(" and ") if defaults else []
        for k, name in enumerate(names.split(", ")):
            found[name] = (each[k] if each else "None", text)
    return found


@pytest.mark.parametrize("cls", [gpunn.MLPClassifier, gpunn.MLPRegressor])
def test_every_parameter_is_documented_with_its_default(cls):
    documented = _documented(cls)
    parameters = inspect.signature(cls).parameters
    assert list(documented) == list(parameters)
    for name, (default, text) in documented.items():
        assert eval(default) == parameters[name].default, name
        assert "As in scikit-learn." not in text


def test_common_parameters_have_one_description():
    classifier, regressor = map(_documented, (gpunn.MLPClassifier, gpunn.MLPRegressor))
    common = (classifier.keys() & regressor.keys()) - OWN
    assert len(common) > 30
    assert [name for name in sorted(common) if classifier[name] != regressor[name]] == []


@pytest.mark.parametrize("cls", [gpunn.MLPClassifier, gpunn.MLPRegressor, gpunn.MLPSearchCV])
def test_the_examples_run_without_a_warning(cls):
    names = {}
    for example in doctest.DocTestParser().get_examples(cls.__doc__):
        exec(example.source, names)
    assert "gpunn" in names
