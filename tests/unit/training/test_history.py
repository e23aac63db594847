"""History as a table and as a plot."""

import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT
from helpers.messages import naming

import gpunn

PNG = b"\x89PNG\r\n\x1a\n"


def _history(epochs=3, names=("loss", "accuracy", "val_loss", "val_accuracy")):
    history = gpunn.History()
    for epoch in range(epochs):
        history.add(epoch, {name: 10.0 * k + epoch / 8 for k, name in enumerate(names)})
    return history


def _fitted(**options):
    rng = np.random.default_rng(0)
    net = gpunn.Sequential([gpunn.Dense(3, "softmax")], seed=0)
    net.compile("sgd", "sparse_categorical_crossentropy", ["accuracy"], device="cpu")
    return net.fit(rng.normal(size=(20, 4)), rng.integers(0, 3, size=20), verbose=0, **options)


def test_it_has_no_times():
    """Two fits with the same seed have equal histories."""
    one, other = _fitted(epochs=3, validation_split=0.2), _fitted(epochs=3, validation_split=0.2)
    assert one.history == other.history and vars(one) == vars(other)


class _Sometimes(gpunn.Callback):
    """Adds values in some epochs only."""

    def on_epoch_logs(self, epoch, logs):
        if epoch == 0:
            logs["early"] = 0.5
        if epoch in (1, 3):
            logs["late"] = epoch


def _sometimes():
    return _fitted(epochs=4, callbacks=[_Sometimes()])


def test_a_value_of_some_epochs_is_nan_in_the_others():
    history = _sometimes()
    assert all(len(values) == 4 for values in history.history.values())
    np.testing.assert_array_equal(history.history["early"], [0.5, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(history.history["late"], [np.nan, 1, np.nan, 3])
    assert np.isfinite(history.history["loss"]).all()


# --- the table --------------------------------------------------------------------------------------------------------


def test_the_table_has_one_row_per_epoch_and_one_column_per_name():
    pytest.importorskip("pandas")
    history = _fitted(epochs=3, validation_split=0.2)
    frame = history.to_frame()
    assert frame.index.tolist() == [0, 1, 2] and frame.index.name == "epoch"
    assert {name: frame[name].tolist() for name in frame} == history.history
    assert (frame.dtypes == "float64").all()
    frame.iloc[:] = 0
    assert history.history["loss"][0] != 0
    np.testing.assert_array_equal(_sometimes().to_frame()["late"], [np.nan, 1, np.nan, 3])
    empty = gpunn.History().to_frame()
    assert empty.shape == (0, 0) and empty.index.name == "epoch"


# --- the picture ------------------------------------------------------------------------------------------------------


def _curves(ax):
    return {line.get_label(): (line.get_xdata().tolist(), line.get_ydata().tolist()) for line in ax.get_lines()}


def test_every_panel_has_a_training_and_a_validation_curve():
    pytest.importorskip("matplotlib")
    history = _history(names=("accuracy", "loss", "val_accuracy", "val_loss"))
    figure = history.plot()
    loss, accuracy = figure.axes
    epochs = [1, 2, 3]
    assert [ax.get_ylabel() for ax in figure.axes] == ["loss", "accuracy"] and loss.get_xlabel() == "epoch"
    assert _curves(loss) == {
        "training": (epochs, history.history["loss"]),
        "validation": (epochs, history.history["val_loss"]),
    }
    assert _curves(accuracy)["validation"] == (epochs, history.history["val_accuracy"])
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["training", "validation"]


def test_a_value_of_some_epochs_is_plotted_at_those():
    pytest.importorskip("matplotlib")
    (ax,) = _sometimes().plot("late").axes
    (line,) = ax.get_lines()
    np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3, 4])
    np.testing.assert_array_equal(line.get_ydata(), [np.nan, 1, np.nan, 3])


def test_selection_and_order_of_metrics():
    pytest.importorskip("matplotlib")
    history = _history(names=("loss", "top_k", "val_loss", "learning_rate", "val_of_a_callback"))

    def labels(*given):
        return [ax.get_ylabel() for ax in history.plot(*given).axes]

    assert labels() == ["loss", "top k", "learning rate", "val of a callback"]
    assert labels("top_k") == ["top k"] and labels(["learning_rate", "loss"]) == ["learning rate", "loss"]
    # without validation data no legend is needed
    (ax,) = history.plot("top_k").axes
    assert len(ax.get_lines()) == 1 and ax.get_legend() is None
    (ax,) = history.plot("learning_rate").axes
    assert ax.get_yscale() == "log"


@pytest.mark.parametrize("epochs", [1, 2, 5, 30, 31, 1000])
def test_epochs_are_integers_from_1(epochs):
    pytest.importorskip("matplotlib")
    (ax,) = _history(epochs).plot("loss").axes
    ax.figure.canvas.draw()
    low, high = ax.get_xlim()
    ticks = [tick for tick in ax.get_xticks() if low <= tick <= high]
    assert ticks and all(tick == round(tick) for tick in ticks)
    line = ax.get_lines()[0]
    assert line.get_xdata().tolist() == list(range(1, epochs + 1))
    # a line alone would hide single points
    assert (line.get_marker() != "None") == (epochs <= 30)


@pytest.mark.parametrize(
    ("count", "grid"), [(1, (1, 1)), (2, (1, 2)), (3, (1, 3)), (4, (2, 2)), (5, (2, 3)), (7, (3, 3))]
)
def test_panels_are_arranged_in_a_grid(count, grid):
    pytest.importorskip("matplotlib")
    figure = _history(names=["loss", *(f"m{k}" for k in range(count - 1))]).plot()
    assert len(figure.axes) == count
    assert figure.axes[0].get_subplotspec().get_gridspec().get_geometry() == grid


def test_non_finite_values_leave_gaps():
    pytest.importorskip("matplotlib")
    history = _history(names=("loss", "learning_rate"))
    history.history["loss"][1] = float("nan")
    history.history["learning_rate"][2] = float("inf")
    assert history.plot()._repr_png_().startswith(PNG)


def test_given_axes_with_labels_and_units():
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    own = Figure()
    axes = own.subplots(1, 2)
    history = _history(names=("loss", "mae", "val_mae"))
    options = {"labels": {"mae": "error in euros"}, "scales": {"mae": 100.0}, "names": ("seen", "held out")}
    assert history.plot(axes=axes, **options) is own
    assert [ax.get_ylabel() for ax in axes] == ["loss", "error in euros"]
    assert _curves(axes[1])["held out"][1] == [100 * v for v in history.history["val_mae"]]
    assert history.plot("mae", axes=axes[0]) is own and history.plot(["mae"], axes=[axes[0]]) is own
    with pytest.raises(ValueError, match="axes must have one entry for each of the 2 panels, got 1"):
        history.plot(axes=axes[0])


def test_invalid_arguments():
    pytest.importorskip("matplotlib")
    with pytest.raises(ValueError, match="no epoch"):
        gpunn.History().plot()
    with pytest.raises(ValueError, match=naming("metrics", "'auc'", "loss, accuracy")):
        _history().plot(["loss", "auc"])
    with pytest.raises(ValueError, match=naming("metrics", "'val_loss'")):
        _history().plot("val_loss")
    with pytest.raises(ValueError, match="metrics is empty"):
        _history().plot([])


@pytest.mark.slow
def test_it_plots_without_a_window_and_without_pyplot(tmp_path):
    """In a process without a display, with any backend."""
    pytest.importorskip("matplotlib")
    script = (
        "import sys, gpunn\n"
        "history = gpunn.History()\n"
        "history.add(0, {'loss': 1.0})\n"
        f"history.plot().savefig({str(tmp_path / 'curves.png')!r})\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    environment = {
        "PYTHONPATH": str(ROOT),
        "MPLBACKEND": "tkagg",
        "MPLCONFIGDIR": str(tmp_path),
        "PATH": "/usr/bin:/bin",
    }
    subprocess.run([sys.executable, "-c", script], check=True, env=environment, cwd=ROOT, timeout=120)
    assert (tmp_path / "curves.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize(
    ("method", "package", "extra"), [("to_frame", "pandas", "cli"), ("plot", "matplotlib.figure", "plot")]
)
def test_a_missing_library_is_reported_with_its_extra(method, package, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"History.{method} needs .*gpunn\[{extra}\]"):
        getattr(_history(), method)()
