"""The reasons in a summary for which a step leaves the fast path."""

START = "leaves the fast path: "
REFERENCES = "the NumPy references of the kernels run, not the compiled kernels"


def slow_path(summary):
    """The reasons for which a step leaves the fast path, except that no kernel is compiled here."""
    lines = str(summary).splitlines()
    reasons = [line.removeprefix(START) for line in lines if line.startswith(START)]
    assert bool(reasons) != ("nothing leaves the fast path" in lines)
    return [reason for reason in reasons if reason != REFERENCES]
