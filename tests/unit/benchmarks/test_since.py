"""`python -m benchmarks since`: slower modes with planted times, and a small run in real processes."""

import json
import random

import pytest
from helpers.oracles import oracle

from benchmarks import __main__ as command
from benchmarks import since
from benchmarks.commits import Commit
from benchmarks.nets import Net
from benchmarks.process import ROOT, Absent
from benchmarks.since import BASELINE, CURRENT

NET = Net("small", (5, 7, 3), 32, 1024)


class Stub:
    """A process whose windows take `us(mode)`, with a log of its requests."""

    def __init__(self, side, us, log):
        self.side, self.us, self.log = side, us, log

    def request(self, what, **arguments):
        self.log.append((self.side, what, arguments.get("mode")))
        return {"us": self.us(arguments["mode"])} if what == "window" else {}

    def close(self):
        self.log.append((self.side, "close", None))


def measured(us, modes=since.MODES, rounds=9):
    """The rows by mode, and the log; `us(side, mode, pair)` is the time of a window in the pair of processes."""
    log, pairs = [], {CURRENT: 0, BASELINE: 0}

    def start(side, threads):
        pairs[side] += 1
        pair = pairs[side]
        return Stub(side, lambda mode: us(side, mode, pair), log)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(since, "PAUSE", 0.0)
        rows = since.measure([NET], [1], rounds, start, modes=modes)
    return {row.mode: row for row in rows}, log


def test_equal_times_are_measured_once():
    rows, log = measured(lambda side, mode, pair: 5.0)
    assert list(rows) == ["fit", "predict", "setup", "estimator"]
    assert all(row.ratio == (1, 1, 1) and not row.repeated and not row.is_slower for row in rows.values())
    windows = [(side, mode) for side, what, mode in log if what == "window"]
    assert len(windows) == 2 * 4 * 9 and sum(what == "close" for _, what, _ in log) == 2
    # each round times both commits of a mode one after the other, in a changing order of modes and commits
    orders = [windows[k : k + 8] for k in range(0, len(windows), 8)]
    for order in orders:
        assert all(a[1] == b[1] and a[0] != b[0] for a, b in zip(order[::2], order[1::2], strict=True))
        assert len({mode for _, mode in order}) == 4
    assert len(set(map(tuple, orders))) > 1


def test_a_mode_that_stays_slower_counts():
    rows, log = measured(lambda side, mode, pair: 1.05 if (side, mode) == (CURRENT, "predict") else 1.0)
    assert [mode for mode, row in rows.items() if row.is_slower] == ["predict"]
    assert len(rows["predict"].repeated[CURRENT]) == len(rows["predict"].repeated[BASELINE]) == 25
    assert not any(rows[mode].repeated for mode in ("fit", "setup", "estimator"))
    # the second measurement is spread over five pairs of processes
    assert sum(what == "close" for _, what, _ in log) == 2 * (1 + 5)


@pytest.mark.parametrize(
    "us, is_suspect, is_slower",
    [
        (lambda pair: 1.03 if pair == 1 else 1.0, True, False),  # once only
        (lambda pair: 1.0 if pair in (2, 3) else 1.1, True, False),  # 10 of 25 rounds are equal: the lower quartile
        (lambda pair: 1.0 if pair == 2 else 1.1, True, True),  # 5 of 25 are
        (lambda pair: 1.019, False, False),
        (lambda pair: 0.9, False, False),
    ],
)
def test_the_lower_quartile_of_the_second_measurement_decides(us, is_suspect, is_slower):
    rows, _ = measured(lambda side, mode, pair: us(pair) if side == CURRENT else 1.0, ["fit"])
    assert (rows["fit"].is_suspect, rows["fit"].is_slower) == (is_suspect, is_slower)
    assert bool(rows["fit"].repeated) == is_suspect


def test_drift_of_both_commits_leaves_the_ratio_unchanged():
    """The two windows of a ratio are adjacent in time."""
    drift = random.Random(3)
    state = {"windows": 0, "speed": 1.0}

    def us(side, mode, pair):
        if state["windows"] % 2 == 0:
            state["speed"] = drift.uniform(0.5, 2)
        state["windows"] += 1
        return state["speed"] * (0.5 if side == CURRENT else 1.0)

    rows, _ = measured(us, ["fit"])
    assert rows["fit"].ratio == (0.5, 0.5, 0.5)


def test_the_table_lists_repeated_measurements_and_slower_modes():
    rows, _ = measured(lambda side, mode, pair: 1.05 if (side, mode) == (CURRENT, "setup") else 1.0)
    about = {"commit": "aaaa+", "since": "bbbb", "rounds": 9, "cpu": "a processor"}
    lines = since.markdown(list(rows.values()), about).splitlines()
    assert "| net | threads | fit | predict | setup | estimator |" in lines
    one, slow = "1.000 (1.000–1.000)", "1.050 (1.050–1.050) \\*"
    assert f"| small | 1 | {one} | {one} | {slow} | {one} |" in lines
    assert "- small, setup, 1 thread: 1.050 (1.050–1.050)" in lines
    assert lines[-1] == "Slower: small, setup, 1 thread."


@pytest.fixture
def planted(monkeypatch, tmp_path):
    """The command with planted times instead of processes and checkout; tests set the times."""
    times = {CURRENT: 1.0, BASELINE: 1.0}

    def start(root, threads, pinned):
        side = CURRENT if root == ROOT else BASELINE
        return Stub(side, lambda mode: times[side], [])

    class Checkout:
        def __init__(self, commit):
            assert commit == "before"

        def __enter__(self):
            return tmp_path / "checkout"

        def __exit__(self, *error):
            pass

    monkeypatch.setattr(since, "PAUSE", 0.0)
    monkeypatch.setattr(since, "Commit", start)
    monkeypatch.setattr(since, "checkout", Checkout)
    monkeypatch.setattr(since, "describe", lambda repository, commit: "bbbb")
    return times


@pytest.mark.parametrize("us, status", [(1.0, 0), (1.1, 1)])
def test_exit_status_and_files(us, status, planted, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    planted[CURRENT] = us
    assert command.main(["since", "before", "--nets", "seed", "--threads", "1"]) == status
    assert "| seed | 1 | " in capsys.readouterr().out and not list(tmp_path.iterdir())
    file = tmp_path / "since.json"
    assert command.main(["since", "before", "--quick", "--nets", "seed", "--json", str(file)]) == status
    result = json.loads(file.read_text(encoding="utf-8"))
    assert result["machine"]["since"] == "bbbb"
    assert [(r["net"], r["mode"], r["ratio"][1], r["counts"]) for r in result["rows"]] == [
        ("seed", mode, us, bool(status)) for mode in since.MODES
    ]


def test_fewer_rounds_are_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        command.main(["since", "HEAD", "--rounds", "8"])
    assert stop.value.code == 2 and "--rounds" in capsys.readouterr().err


def test_a_commit_that_does_not_exist_is_an_error(capsys):
    assert command.main(["since", "no-such-commit", "--quick"]) == 1
    assert "error" in capsys.readouterr().err


@pytest.mark.slow
def test_a_process_times_all_modes(monkeypatch):
    """Both commits are the working tree; the times themselves are not checked."""
    oracle("sklearn")
    monkeypatch.setattr(since, "PAUSE", 0.0)
    monkeypatch.setattr(since, "LIMIT", float("inf"))
    rows = since.measure([NET], [1], 2, lambda side, n: Commit(ROOT, n, pinned=True), seconds=1e-3)
    for row in rows:
        assert {side: len(us) for side, us in row.us.items()} == {CURRENT: 2, BASELINE: 2}
        assert min(row.us[CURRENT] + row.us[BASELINE]) > 0


def test_gpunn_of_another_folder_is_refused(tmp_path):
    with pytest.raises(Absent, match="gpunn"):
        Commit(tmp_path)
