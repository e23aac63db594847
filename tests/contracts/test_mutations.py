"""The anchors of the mutations: each is in the code once, marks a line that has the fragment, and no other exists."""

import re

import pytest
from mutations import ANCHOR, MUTATIONS, ROOT, TESTS, Line, Mutation, anchors, located

SUM = Mutation("E1 sum", "+ b", "- b", "step")


@pytest.fixture
def checkout(tmp_path):
    def make(**files):
        for folder in ("gpunn", "kernels"):
            (tmp_path / folder).mkdir()
        for name, text in files.items():
            (tmp_path / "gpunn" / f"{name}.py").write_text(text)
        return tmp_path

    return make


def test_every_mutation_changes_the_code_of_its_line():
    for mutation, line in located(ROOT, MUTATIONS).items():
        before = (ROOT / line.file).read_text().split("\n")
        after = line.mutated(ROOT, mutation).split("\n")
        changed = [k for k, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
        assert changed == [line.index], mutation
        assert ANCHOR.search(before[line.index]) is None or ANCHOR.search(after[line.index])[1] == mutation.anchor


def test_no_mutation_is_listed_twice_and_every_suite_exists():
    assert len({(m.anchor, m.old, m.new) for m in MUTATIONS}) == len(MUTATIONS)
    assert {m.suite for m in MUTATIONS} == TESTS.keys()
    assert all((ROOT / file).is_file() for files in TESTS.values() for file in files)


@pytest.mark.parametrize(
    "text",
    [
        "x = 1\ny = a + b  # mutate: E1 sum\n",
        "x = 1\n# mutate: E1 sum\ny = a + b\n",
        'TEXT = """\n  y = a + b;  // mutate: E1 sum\n"""\n',
        'TEXT = """\n  // mutate: E1 sum\n  y = a + b;\n"""\n',
    ],
)
def test_an_anchor_marks_its_own_line_or_the_next(checkout, text):
    folder = checkout(module=text)
    line = located(folder, [SUM])[SUM]
    assert line.mutated(folder, SUM) == text.replace("a + b", "a - b")


@pytest.mark.parametrize("text", ["y = a * b  # mutate: E1 sum\n", "y = a + b + b  # mutate: E1 sum\n"])
def test_a_fragment_that_is_not_once_in_the_line_is_refused(checkout, text):
    folder = checkout(module=text)
    with pytest.raises(ValueError, match=re.escape(str(SUM))):
        located(folder, [SUM])[SUM].mutated(folder, SUM)


def test_an_anchor_that_appears_twice_is_refused(checkout):
    line = "y = a + b  # mutate: E1 sum\n"
    folder = checkout(first=line, second=line)
    with pytest.raises(ValueError, match="'E1 sum'"):
        anchors(folder)


def test_an_unknown_anchor_and_a_missing_one_are_refused(checkout):
    folder = checkout(module="y = a + b  # mutate: E1 sum\n")
    with pytest.raises(ValueError, match="'E1 sum'"):
        located(folder, [])
    with pytest.raises(ValueError, match="'E2 relu'"):
        located(folder, [SUM, Mutation("E2 relu", "0", "1", "step")])
    assert located(folder, [SUM]) == {SUM: Line((folder / "gpunn/module.py").relative_to(folder), 0)}
