"""`python -m benchmarks scale`: the model recovers known constants and limits its predictions."""

import importlib.util
import json

import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks import scale
from benchmarks.scaling import ASSUMPTIONS, CONSTANTS, MAX_EXTRAPOLATION, Load, fit

pytest.importorskip("scipy")
# seconds per step, per row and weight, per weight, per message, per byte
KNOWN = {"fixed": 20e-6, "compute": 2e-11, "update": 3e-10, "latency": 5e-6, "per byte": 1e-10}
LOADS = [Load(P, B, w) for P in (1, 2, 4) for B in (128, 512) for w in (10_000, 400_000, 2_000_000)]


def seconds(load, known=KNOWN):
    """The model's formula."""
    P, w = load.processes, load.parameters
    t = known["fixed"] + known["compute"] * (load.batch / P) * w + known["update"] * w
    if P > 1:
        t += known["latency"] * np.log2(P) + 2 * (P - 1) / P * 4 * w * known["per byte"]
    return t


def test_known_constants_are_recovered():
    model = fit(LOADS, [seconds(load) for load in LOADS])
    assert dict(zip(CONSTANTS, model.constants, strict=True)) == pytest.approx(KNOWN, rel=1e-6)
    far = Load(256, 51_200, 400_000)
    assert model.predict(far) == pytest.approx([seconds(far)] * 3, rel=1e-6)


def test_noise_widens_the_band_around_the_true_value():
    rng = np.random.default_rng(1)
    loads = LOADS * 5
    noisy = [seconds(load) * (1 + 0.05 * rng.standard_normal()) for load in loads]
    model, exact = fit(loads, noisy), fit(LOADS, [seconds(load) for load in LOADS])
    far = Load(64, 6_400, 400_000)
    middle, low, high = model.predict(far)
    assert low < seconds(far) < high and low < middle < high
    assert high - low > 1e-3 * middle > exact.predict(far)[2] - exact.predict(far)[1]


def test_efficiency_without_communication_is_one():
    """Only computation: rows per second and process are constant."""
    known = dict.fromkeys(KNOWN, 0.0) | {"compute": 1e-11}
    model = fit(LOADS, [seconds(load, known) for load in LOADS])
    assert model.efficiency(Load(1, 512, 1000), Load(16, 512, 1000))[0] == pytest.approx(1)
    assert model.efficiency(Load(1, 512, 1000), Load(16, 16 * 512, 1000))[0] == pytest.approx(1)


def test_predictions_end_at_64_times_the_measured_processes():
    model = fit(LOADS, [seconds(load) for load in LOADS])
    assert model.most == 4 and MAX_EXTRAPOLATION == 64
    model.predict(Load(256, 512, 1000))
    with pytest.raises(ValueError, match=r"at most 64 times the measured 4 .* got 257"):
        model.predict(Load(257, 512, 1000))
    assert max(row["processes"] for row in scale.predictions(model)) == 256


@pytest.mark.parametrize("loads", [LOADS[:6], [load for load in LOADS if load.parameters == 10_000]])
def test_insufficient_measurements_are_refused(loads):
    with pytest.raises(ValueError, match="must determine all constants"):
        fit(loads, [seconds(load) for load in loads])


def rows():
    """Measured rows, as printed by the processes."""
    found = []
    for P in (1, 2):
        for sizes in scale.NETS:
            for batch in scale.BATCHES:
                row = {"sizes": list(sizes), "batch": batch, "processes": P}
                t = seconds(scale.load_of(row))
                found.append(row | {"seconds": [0.98 * t, 1.01 * t, t, 1.02 * t]})
    return found


def test_measured_and_predicted_times_have_separate_columns(tmp_path):
    result = scale.summary(rows())
    measured, predicted = (set().union(*result[name]) for name in ("measured", "predicted"))
    assert measured & predicted == {"sizes", "batch", "processes"}
    assert "measured_us_per_step" in measured and "predicted_us_per_step" in predicted
    text = scale.markdown(result)
    first, second = text.split("## Predicted, not measured")
    assert "predicted" not in first and "measured" not in second.replace("the measured one", "")
    assert all(line in second for line in ASSUMPTIONS)
    json.dumps(result, allow_nan=False)


def test_measured_efficiencies_by_hand():
    """Strong: t₁/(P t_P) for one batch. Weak: t₁/t_P for a fixed number of rows per process."""
    result = scale.summary(rows())
    t = {(row["processes"], row["batch"]): row["measured_us_per_step"][1]
         for row in result["measured"] if tuple(row["sizes"]) == scale.SHOWN}  # fmt: skip
    assert scale.efficiencies(result, "strong") == [(1, 1), (2, pytest.approx(t[1, 512] / (2 * t[2, 512])))]
    assert scale.efficiencies(result, "weak") == [(1, 1), (2, pytest.approx(t[1, 512] / t[2, 1024]))]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="needs matplotlib")
def test_the_plot_lists_the_assumptions(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    texts, write = [], Figure.text

    def text(self, x, y, s, *more, **how):
        texts.append(s)
        return write(self, x, y, s, *more, **how)

    monkeypatch.setattr(Figure, "text", text)
    scale.draw(scale.summary(rows()), tmp_path / "scale.png")
    assert (tmp_path / "scale.png").stat().st_size > 10_000
    assert any(all(line in text for line in ASSUMPTIONS) for text in texts)


@pytest.mark.parametrize("given", ["2", "1", "0,1", "one", "1,4096"])
def test_invalid_numbers_of_processes_are_refused(given, capsys):
    with pytest.raises(SystemExit) as stop:
        command.main(["scale", "--processes", given])
    assert stop.value.code == 2
    assert "must list 1 and other numbers up to" in capsys.readouterr().err
