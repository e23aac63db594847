"""Tables in CSV files, for the tests of `gpunn.tabular`."""

from gpunn.tabular.csv_file import CsvFile


def read_csv(path, *as_written):
    """The table in a CSV file, with the cells of some columns as written."""
    return CsvFile.open(path).table(as_written)


def written(folder, text, name="table.csv"):
    """The path of a new file with this text."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path
