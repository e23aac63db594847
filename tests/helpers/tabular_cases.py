"""A small table with a missing cell in each kind of column, and models that learn from it."""

import numpy as np

import gpunn

N = 60
RNG = np.random.default_rng(0)
TABLE = {
    "size": [None if k % 11 == 5 else float(x) for k, x in enumerate(RNG.normal(size=N))],
    "kind": [("ale", "bock", None)[k] for k in RNG.integers(0, 3, N)],
    "day": np.datetime64("2024-01-01") + np.arange(N),
    "flag": RNG.integers(0, 2, N) == 1,
}
SIZE = np.array([0.0 if x is None else x for x in TABLE["size"]])
LABELS = np.where(SIZE + (np.array(TABLE["kind"]) == "ale") > 0.3, "yes", "no")
VALUES = 10 * SIZE + np.where(TABLE["flag"], 5.0, 0.0)


def classifier(**options):
    return gpunn.TabularClassifier(**({"n_networks": 2} | options))


def regressor(**options):
    return gpunn.TabularRegressor(**({"n_networks": 2} | options))


CASES = [(classifier, LABELS), (regressor, VALUES)]


def output(model, table=TABLE):
    """The prediction of a model as bits."""
    found = model.predict_proba(table) if isinstance(model, gpunn.TabularClassifier) else model.predict(table)
    return found.tobytes()


def rows_of(table, rows):
    return {name: [cells[k] for k in rows] for name, cells in table.items()}
