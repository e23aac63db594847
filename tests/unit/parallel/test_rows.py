"""Datasets on disk, of which each process reads its own rows: .npy and Parquet files."""

import numpy as np
import pytest
from helpers.messages import naming
from helpers.networks import build_network
from helpers.oracles import oracle
from helpers.threaded_group import ThreadedGroup

import gpunn
from gpunn.parallel.disk_rows import RowPartition

RNG = np.random.default_rng(5)
ROWS = 53
X, Y, W = RNG.normal(size=(ROWS, 4)), RNG.normal(size=(ROWS, 2)), RNG.uniform(0, 2, ROWS)
NAMES = [f"x{k}" for k in range(4)]


@pytest.fixture
def npy(tmp_path):
    for name, rows in (("x", X), ("y", Y), ("w", W)):
        np.save(tmp_path / f"{name}.npy", rows)
    return lambda parts=None: [gpunn.Rows(tmp_path / f"{name}.npy", parts=parts) for name in "xyw"]


@pytest.fixture
def parquet(tmp_path):
    """Two files with row groups of 10 and 7 rows."""
    pa = oracle("pyarrow")
    from pyarrow.parquet import write_table

    columns = {name: X[:, k] for k, name in enumerate(NAMES)} | {"y0": Y[:, 0], "y1": Y[:, 1], "w": W}
    table = pa.table(columns | {"word": [str(k) for k in range(ROWS)]})
    files = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    write_table(table.slice(0, 31), files[0], row_group_size=10)
    write_table(table.slice(31), files[1], row_group_size=7)
    return lambda parts=None: [gpunn.Rows(files, c, parts=parts) for c in (NAMES, ["y0", "y1"], "w")]


def fitted(sets, strategy=None, **how):
    layers = gpunn.Dense(6, "relu"), gpunn.Dropout(0.2), gpunn.Dense(2)
    net = build_network(*layers, dtype="float64", loss="mse", metrics=["r2"], strategy=strategy)
    x, y, w = sets
    options = {"batch_size": 8, "epochs": 4, "verbose": 0, "sample_weight": w}
    history = net.fit(x, y, **options | how)
    return net.get_weights(), history.history


def assert_close(found, wanted):
    for a, b in zip(found[0], wanted[0], strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)
    assert found[1].keys() == wanted[1].keys()
    for name in wanted[1]:
        np.testing.assert_allclose(found[1][name], wanted[1][name], rtol=1e-9)


def test_one_process_takes_the_steps_of_a_fit_on_arrays(npy, parquet):
    wanted = fitted((X, Y, W), validation_data=(X, Y, W))
    for files in (npy, parquet):
        found = fitted(files(), validation_data=tuple(files()))
        assert all((a == b).all() for a, b in zip(found[0], wanted[0], strict=True))
        assert found[1] == wanted[1]


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("shuffle", [True, False])
def test_several_processes_take_the_steps_of_one_with_as_many_parts(size, shuffle, npy, parquet):
    wanted = fitted(npy(size), validation_data=tuple(npy()), shuffle=shuffle)
    for files in (npy, parquet):
        for found in ThreadedGroup(size).run(
            lambda s, files=files: fitted(files(), s, validation_data=tuple(files()), shuffle=shuffle)
        ):
            assert_close(found, wanted)


def test_together_with_arrays_in_memory(npy):
    """Targets may be an array that all ranks have."""
    x, _, _ = npy(2)
    wanted = fitted((x, Y, W))
    for found in ThreadedGroup(2).run(lambda s: fitted((npy()[0], Y, W), s)):
        assert_close(found, wanted)


@pytest.mark.parametrize("n, batch, parts", [(53, 8, 1), (53, 8, 3), (10, 4, 3), (7, 7, 7), (9, 8, 4), (16, 8, 4)])
def test_blocks_have_every_row_once(n, batch, parts):
    blocks = RowPartition(n, batch, parts)
    ends = [blocks.block(k) for k in range(parts)]
    assert ends[0][0] == 0 and ends[-1][1] == n
    places = [blocks.positions(k) for k in range(parts)]
    assert [len(p) for p in places] == [stop - start for start, stop in ends]
    assert sorted(np.concatenate(places)) == list(range(n))
    whole = blocks.order(7, 2, range(parts), shuffle=True)
    assert sorted(whole) == list(range(n))
    for k, (start, stop) in enumerate(ends):
        mine = blocks.order(7, 2, range(k, k + 1), shuffle=True)[places[k]]
        assert (mine + start == whole[places[k]]).all() and sorted(mine) == list(range(stop - start))
    if n > parts:
        assert (whole != blocks.order(7, 3, range(parts), shuffle=True)).any()


def test_every_block_has_a_separate_permutation():
    """The permutation of block k is drawn from the generator jumped k times."""
    blocks = RowPartition(4 * 16, 8, 4)
    orders = [blocks.order(7, 2, range(k, k + 1), shuffle=True)[blocks.positions(k)].tolist() for k in range(4)]
    key = np.array([7, 2], dtype=np.uint64)
    for k, order in enumerate(orders):
        assert order == np.random.Generator(np.random.Philox(key=key).jumped(k)).permutation(16).tolist()
    assert len(set(map(tuple, orders))) == 4


def test_only_requested_row_groups_are_read(parquet, monkeypatch):
    from pyarrow.parquet import ParquetFile

    groups, read = [], ParquetFile.read_row_groups
    monkeypatch.setattr(ParquetFile, "read_row_groups", lambda f, g, **how: groups.append(g) or read(f, g, **how))
    x = parquet()[0]
    np.testing.assert_array_equal(x.read(8, 12), X[8:12])
    assert groups == [[0, 1]]
    np.testing.assert_array_equal(x.read(30, 38), X[30:38])
    assert groups == [[0, 1], [3], [0]]
    np.testing.assert_array_equal(x.read(5, 5), X[5:5])
    assert (x.shape, len(x), x.dtype, x.ndim) == ((ROWS, 4), ROWS, np.float64, 2)


def test_a_memory_map_is_not_copied(npy):
    part = npy()[0].read(3, 9)
    assert isinstance(part, np.memmap) and not part.flags.writeable
    np.testing.assert_array_equal(part, X[3:9])


@pytest.mark.parametrize(("first", "then"), [(1, 1), (1, 3), (3, 2), (2, 1)])
def test_any_number_of_processes_resumes_with_the_same_rows_only(first, then, npy, tmp_path):
    """With training and validation data in files."""
    path = tmp_path / "run.safetensors"

    def fit(strategy, epochs, **sets):
        x, y, w = npy()
        options = {"epochs": epochs, "resume": path, "callbacks": [gpunn.ModelCheckpoint(path)]}
        return fitted(
            [sets.get("x", x), sets.get("y", y), sets.get("w", w)], strategy, validation_data=(x, y), **options
        )

    def run(size, *arguments, **sets):
        return (
            ThreadedGroup(size).run(lambda s: fit(s, *arguments, **sets))
            if size > 1
            else [fit(None, *arguments, **sets)]
        )

    run(first, 2)
    for name, array in (("x", X), ("y", Y), ("w", W)):
        np.save(tmp_path / "other.npy", np.concatenate([array[:-1], array[:1]]))
        with pytest.raises((gpunn.CheckpointError, RuntimeError), match=r"training data\..* in the file and .* here"):
            run(then, 4, **{name: gpunn.Rows(tmp_path / "other.npy")})
    for _, history in run(then, 4):
        assert len(history["loss"]) == 4


# --- errors -----------------------------------------------------------------------------------------------------------


def test_invalid_files(tmp_path, npy, parquet):
    with pytest.raises(ValueError, match="files is empty"):
        gpunn.Rows([])
    with pytest.raises(ValueError, match=r"must end with .npy or .parquet"):
        gpunn.Rows(tmp_path / "x.csv")
    with pytest.raises(FileNotFoundError):
        gpunn.Rows(tmp_path / "none.npy")
    (tmp_path / "bad.npy").write_bytes(b"no array")
    with pytest.raises(ValueError, match=r"bad.npy is not a .npy file"):
        gpunn.Rows(tmp_path / "bad.npy")
    np.save(tmp_path / "cube.npy", np.zeros((2, 2, 2)))
    with pytest.raises(ValueError, match=r"got shape \(2, 2, 2\)"):
        gpunn.Rows(tmp_path / "cube.npy")
    np.save(tmp_path / "wide.npy", np.zeros((2, 5)))
    with pytest.raises(ValueError, match=naming("shape", "wide.npy")):
        gpunn.Rows([tmp_path / "x.npy", tmp_path / "wide.npy"])
    with pytest.raises(ValueError, match="columns needs Parquet files"):
        gpunn.Rows(tmp_path / "x.npy", "a")
    (tmp_path / "bad.parquet").write_bytes(b"no table")
    with pytest.raises(ValueError, match=naming("bad.parquet")):
        gpunn.Rows(tmp_path / "bad.parquet")
    parquet()
    with pytest.raises(ValueError, match=r"has no column \['z'\]; its columns are x0, x1"):
        gpunn.Rows(tmp_path / "a.parquet", ["x0", "z"])
    with pytest.raises(ValueError, match=r"column 'word' of .* must be numeric, got string"):
        gpunn.Rows(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=naming("parts", 0)):
        gpunn.Rows(tmp_path / "x.npy", parts=0)


def test_files_without_rows_are_named(tmp_path):
    pa = oracle("pyarrow")
    from pyarrow.parquet import write_table

    np.save(tmp_path / "empty.npy", np.zeros((0, 4)))
    write_table(pa.table({"a": pa.array([], pa.float64())}), tmp_path / "empty.parquet")
    for name in ("empty.npy", "empty.parquet"):
        with pytest.raises(ValueError, match=f"at least one row, got none in .*{name}"):
            gpunn.Rows(tmp_path / name)
        with pytest.raises(ValueError, match=f"at least one row, got none in .*{name}, .*{name}"):
            gpunn.Rows([tmp_path / name, tmp_path / name])
    np.save(tmp_path / "some.npy", X)
    assert gpunn.Rows([tmp_path / "empty.npy", tmp_path / "some.npy"]).shape == X.shape


def test_missing_values_are_named(tmp_path):
    pa = oracle("pyarrow")
    from pyarrow.parquet import write_table

    write_table(pa.table({"a": [1.0, None, 3.0]}), tmp_path / "holes.parquet")
    with pytest.raises(ValueError, match=r"column 'a' of .*holes.parquet has missing values"):
        gpunn.Rows(tmp_path / "holes.parquet", ["a"]).read(0, 3)


def test_inconsistent_datasets(npy, tmp_path):
    x, y, w = npy()
    with pytest.raises(ValueError, match=naming("y", 50, 53)):
        fitted((x, Y[:50], None))
    with pytest.raises(ValueError, match="parts must be the same"):
        fitted((x, npy(2)[1], None))
    with pytest.raises(ValueError, match=naming("y", "X")):
        fitted((X, y, None))
    with pytest.raises(TypeError, match="y is missing"):
        fitted((x, None, None))
    with pytest.raises(ValueError, match=naming("validation_split")):
        fitted((x, y, None), validation_split=0.2)
    with pytest.raises(ValueError, match="class_weight='balanced' needs all rows"):
        fitted((x, y, None), class_weight="balanced")
    with pytest.raises(ValueError, match=naming("sample_weight", "zero")):
        fitted((x, y, np.zeros(ROWS)))
    with pytest.raises(ValueError, match=naming("validation X", 53, "sample_weight")):
        fitted((x, y, w), validation_data=(x, Y[:50]))

    def two_of_three(strategy):
        with pytest.raises(ValueError, match=naming("parts", 3, 2)):
            fitted(npy(3), strategy)
        return True

    assert all(ThreadedGroup(2).run(two_of_three))
