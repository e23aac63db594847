"""The quality of predictions, as lines for the user."""

from __future__ import annotations

import numpy as np

from ..tabular.criteria import log_losses

SHOWN_CLASSES = 20
MATRIX_CLASSES = 6  # the confusion matrix of more classes does not fit into 80 columns


def of_numbers(y: np.ndarray, a: np.ndarray) -> list[str]:
    """R² and errors of the predictions a (n,) for y (n,)."""
    deviation = y - y.mean()
    unit = float(np.abs(deviation).max()) or 1.0  # so that no square overflows or underflows
    error = (y - a) / unit
    variance = float(((deviation / unit) ** 2).sum())
    r2 = f"{1 - float((error**2).sum()) / variance:.4f}" if variance else "undefined because all rows are equal"
    return [
        f"R² {r2} (mean absolute error {np.abs(error).mean() * unit:.4g}, root mean squared error "
        f"{np.sqrt((error**2).mean()) * unit:.4g} in {len(y)} rows)"
    ]


def of_classes(labels: np.ndarray, y: np.ndarray, p: np.ndarray, training_y: np.ndarray) -> list[str]:
    """Accuracy, log loss, the accuracy of the most frequent label, and precision and recall of each label.

    Parameters
    ----------
    labels : array (c,)
        The labels in the order of the columns of p, sorted.
    y : array (n,)
        The labels of the rows.
    p : array (n, c)
        Predicted probabilities.
    training_y : array
        The labels whose most frequent one is compared with.
    """
    n = len(y)
    found, counts = np.unique(training_y, return_counts=True)
    most_frequent = found[counts.argmax()]
    predicted, true = p.argmax(axis=1), np.searchsorted(labels, y)
    n_correct = int((predicted == true).sum())
    lines = [
        f"accuracy {n_correct / n:.4f} ({n_correct} of {n} rows correct), log loss {log_losses(p, true).mean():.4f}",
        f"always {str(most_frequent)!r}: accuracy {(y == most_frequent).mean():.4f}",
    ]
    return lines + _per_class(labels, predicted, true)


def confusion_matrix(count: int, true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """The numbers of rows (count, count) by true and predicted index of the label."""
    found = np.zeros((count, count), int)
    np.add.at(found, (true, predicted), 1)
    return found


def _per_class(labels: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> list[str]:
    """Rows, precision and recall of each label, and the confusion matrix of few labels."""
    k = len(labels)
    confusion = confusion_matrix(k, true, predicted)
    width = min(24, max(len("label"), *(len(str(label)) for label in labels)))
    lines = [f"{'label':{width}} {'rows':>6} {'precision':>9} {'recall':>6}"]
    for i in range(min(k, SHOWN_CLASSES)):
        precision, recall = (_ratio(confusion[i, i], total) for total in (confusion[:, i].sum(), confusion[i].sum()))
        lines.append(f"{str(labels[i])[:width]:{width}} {confusion[i].sum():6} {precision:>9} {recall:>6}")
    if k > SHOWN_CLASSES:
        lines.append(f"and {k - SHOWN_CLASSES} more labels")
    if k <= MATRIX_CLASSES:
        lines.append("confusion matrix (rows: true labels, columns: predicted ones, in the order above):")
        lines += ["  " + " ".join(f"{count:6}" for count in row) for row in confusion]
    return lines


def _ratio(part: int, total: int) -> str:
    return f"{part / total:.3f}" if total else "–"
