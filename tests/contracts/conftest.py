"""Fitted models for tests that check that they do not change."""

import pytest


@pytest.fixture(scope="module")
def fitted():
    """One fitted estimator of each kind."""
    from helpers.estimator_cases import fitted_estimators

    return fitted_estimators()


@pytest.fixture(scope="module")
def classifier():
    """Return one network for all tests of a module. Each test checks that it did not change."""
    from helpers.bad_input import trained_classifier

    return trained_classifier()
