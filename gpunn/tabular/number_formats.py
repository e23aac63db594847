"""Numbers as spreadsheets write them: decimal comma, thousands separators, currency signs and percent."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from .cells import MISSING_NUMBERS, Cells, is_numeric, pandas, place
from .table import shown

SAMPLE = 1000  # if none of the first cells is a number, the column is text
CURRENCIES = "$¢£¤¥" + "".join(map(chr, range(0x20A0, 0x20C1)))  # the block of currency signs begins at U+20A0
# spaces within numbers are often no-break spaces, which many fonts show as plain ones
PLAIN = str.maketrans({"\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u2019": "'", "\u2212": "-"})


def _pattern(decimal: str, thousands: str) -> re.Pattern[str]:
    """A number with one of the thousands separators, in groups of three digits, between optional units."""
    unit = f"[%{CURRENCIES}]?"
    whole = rf"(?P<whole>[1-9]\d{{0,2}}(?P<mark>[{thousands}])\d{{3}}(?:(?P=mark)\d{{3}})*|\d*)"
    sign, rest = r"(?P<{}>[+-]?)", rf"(?:[{decimal}](?P<fraction>\d+))?(?P<exponent>[eE][+-]?\d+)?"
    return re.compile(
        rf"{sign.format('sign')} ?(?P<before>{unit}) ?{sign.format('inner')}(?=\D?\d){whole}{rest} ?(?P<after>{unit})"
    )


PATTERNS = {".": _pattern(".", ", '"), ",": _pattern(",", ". '")}


@dataclass(frozen=True)
class NumberFormat:
    """The way in which the numbers of a column are written.

    decimal  "." or ","
    unit     "%", a currency sign, or ""
    """

    decimal: str
    unit: str = ""

    def check(self) -> None:
        """Raise ValueError if there is no such format."""
        if self.decimal not in PATTERNS or self.unit not in ("", "%", *CURRENCIES):
            raise ValueError(f"a number format must have a decimal mark and a unit, got {self}")

    def __str__(self) -> str:
        mark = "comma" if self.decimal == "," else "point"
        return f"a decimal {mark}" + (f" and {self.unit}" if self.unit else "")

    def read(self, cells: Cells) -> Cells:
        """A column of such texts as floats, NaN for missing cells.

        If a cell is neither, the column stays text: numbers as `float` reads them, and other cells with a note.
        """
        found = cells.astype(object).map(self._read, na_action="ignore")
        is_text = any(isinstance(cell, str) for cell in found)
        return found.map(str, na_action="ignore") if is_text else found.astype(float)

    def _read(self, cell: object) -> object:
        text = str(cell).strip()
        if text in MISSING_NUMBERS:
            return math.nan
        number, unit = _read(text, self.decimal)
        # 37 without its percent sign may be 0.37 or 37
        has_unit = unit == self.unit or (not unit and self.unit != "%")
        return number if number is not None and has_unit else f"{text} (not a number with {self})"


def find_format(cells: Cells, decimal: str | None = None) -> NumberFormat | None:
    """The format of a column of text if all its cells are numbers that can be read in one way only, else None.

    With `decimal`, "." or ",", only numbers with this decimal mark are considered.
    """
    texts = _texts(cells)
    formats = [
        found
        for decimal in ([decimal] if decimal else PATTERNS)
        if (found := _common_format(texts, decimal)) is not None
    ]
    if len(formats) == 2 and not formats[0].read(cells).equals(formats[1].read(cells)):
        return None
    return formats[0] if formats else None


def describe_unread_numbers(cells: Cells) -> str:
    """The reason why a column of text is not read as numbers, with a remedy, if most cells look so; else ""."""
    texts = _texts(cells)
    read = {decimal: [_read(text, decimal)[0] for text in texts] for decimal in PATTERNS}
    decimal = max(PATTERNS, key=lambda mark: len(texts) - read[mark].count(None))
    plain = pandas().to_numeric(texts, errors="coerce").notna()
    # codes such as 1, 2, 3, A have no number in a special format
    special = any(number is not None and not is_plain for number, is_plain in zip(read[decimal], plain, strict=True))
    if not special or 2 * read[decimal].count(None) >= len(texts):
        return ""
    kind = "a decimal comma" if decimal == "," else "thousands separators or units"
    ambiguous = [k for k, pair in enumerate(zip(*read.values(), strict=True)) if None not in pair and len({*pair}) > 1]
    if None in read[decimal]:
        k = read[decimal].index(None)
        reason = f"got {shown(texts.iloc[k])} in {place(texts, k)}: correct such cells or leave them empty"
    elif ambiguous:
        k, kind = ambiguous[0], "a decimal comma or thousands separators"
        reason = f"{shown(texts.iloc[k])} is {read[','][k]:.10g} or {read['.'][k]:.10g}: write numbers as 1234.5"
    else:
        reason = "in different units: write numbers as 1234.5 in one unit"
    return f"looks like numbers with {kind}, but {reason}"


def _texts(cells: Cells) -> Cells:
    """The cells of a column of text that are not missing. None of them if the column is not like numbers at all."""
    none = cells.iloc[:0]
    sample = [value for value in cells.iloc[:SAMPLE] if isinstance(value, str) and value.strip() not in MISSING_NUMBERS]
    if is_numeric(cells) or (sample and all(_read(text, mark)[0] is None for text in sample for mark in PATTERNS)):
        return none
    present = cells.dropna()
    if not all(isinstance(value, str) for value in present):
        return none
    present = present[~present.str.strip().isin(MISSING_NUMBERS)]
    return none if pandas().to_numeric(present, errors="coerce").notna().all() else present


def _common_format(texts: Cells, decimal: str) -> NumberFormat | None:
    """The format of texts that all are numbers with this decimal mark and the same unit."""
    units = set()
    for text in texts:
        number, unit = _read(text, decimal)
        units.add(unit)
        if number is None or len(units) > 1:
            return None
    return NumberFormat(decimal, *units) if units else None


def _read(cell: str, decimal: str) -> tuple[float | None, str]:
    """The number in a cell and its unit. None if it is not a finite number written with this decimal mark."""
    found = PATTERNS[decimal].fullmatch(cell.strip().translate(PLAIN))
    if found is None or (found["before"] and found["after"]) or (found["sign"] and found["inner"]):
        return None, ""
    whole = found["whole"].replace(found["mark"] or " ", "")
    number = float(f"{found['sign'] or found['inner']}{whole}.{found['fraction'] or 0}{found['exponent'] or ''}")
    return (number if math.isfinite(number) else None), found["before"] or found["after"]
