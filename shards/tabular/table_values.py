"""Columns of tables into the type that the reader needs, whatever type the file gave them.

An id is never made from, or by way of, a floating-point number: floats hold no more than 2^53.
What a table means by nothing is null here: nulls, NaN, empty cells and, for ids, numbers and
positions, the words of `NULL_WORDS`.
"""

import math
import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Kind = Literal["id", "number", "text", "value", "position"]

NULL_WORDS = ("", "null", "nan", "na", "n/a", "#n/a", "none", "<na>", "nat", "\\n")  # in any case
NULL_TEXTS = ("", "\\N")  # of text and values: a class may well be called NA
BOOLEANS = {"true": "true", "t": "true", "yes": "true", "on": "true"} | {
    "false": "false", "f": "false", "no": "false", "off": "false"
}  # fmt: skip
NUMBER = re.compile(r"[+-]?(0|[1-9][0-9]*)(\.[0-9]*)?([eE][+-]?[0-9]{1,3})?")
FLOAT_TEXT = re.compile(r"'\s*[+-]?[0-9]+(?=[.eE])(\.[0-9]*)?([eE][+-]?[0-9]+)?\s*'")
ID = r"^[+-]?[0-9]+$"
AXIS = (
    r"[-+]?(?:[0-9]+\.?[0-9]*(?:[eE][-+]?[0-9]+)?|\.[0-9]+(?:[eE][-+]?[0-9]+)?|(?i:inf|infinity))"
)
GAP = r"(?:\s+|\s*[,;]\s*)"
POINT = rf"^[\s\[({{]*(?P<x>{AXIS}){GAP}(?P<y>{AXIS}){GAP}(?P<z>{AXIS})[\s\])}}]*$"
TEXT_TYPES = (
    *(pa.string(), pa.large_string(), pa.string_view()),
    *(pa.binary(), pa.large_binary(), pa.binary_view()),
)
SHOWN_CHARACTERS = 60
FLOAT_BITS = 53
MANY_IDS, ROWS_LOOKED_AT = 16, 4096  # so many large ids are not all round by chance
LONGEST_NUMBER = 100  # characters; longer ones are text
MAX_TEXT_BYTES = 1 << 30  # in one column of a batch
# What pyarrow raises on values that a conversion does not take.
REFUSED = (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError, ValueError, TypeError)

EXPECTED = {
    "id": "a whole number from -2^63 to 2^63 - 1, as an integer or text of digits",
    "number": "a number, with a point for its decimals",
    "text": "text in UTF-8",
    "value": "text in UTF-8, a whole number or a boolean",
    "position": "three numbers, as [x, y, z]",
}
CURES = {
    "id": "correct it; an empty cell means that there is none",
    "number": "correct it; an empty cell means that there is none",
    "text": "save the table in UTF-8",
    "value": "save the table in UTF-8",
    "position": "correct or remove the row",
}
FLOATS_LOST = (
    "floating-point numbers lose the last digits of ids: export the column again as integers or "
    "as text (pandas turns integers with gaps into floats: read them as 'Int64')"
)


def convert(
    column: pa.Array, kind: Kind, *, where: str, first_row: int = 0, cure: str | None = None
) -> pa.Array:
    """Return a column as `kind`: see `shards.tabular.table_files`.

    A value that does not fit is a `ValueError` that begins with `where` and names its data row,
    of which the column's first is `first_row` + 1, and ends with `cure` or what is usual.
    """
    try:
        converted = _converted(column, kind)
    except REFUSED:
        raise _refusal(column, kind, where, first_row, cure or CURES[kind]) from None
    if kind == "id":
        _refuse_rounded(converted, where)
    return converted


def canonical_value(value: object) -> str | None:
    """Return the one text of a label's value, however a table or a YAML key spells it.

    True, "TRUE", "t" and "yes" are "true"; 1, 1.0, "1" and "+1.0" are "1"; other text stands as
    it is, without the spaces around it. Nothing (None, NaN, "") is None.
    """
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    text = str(value).strip()
    if text in NULL_TEXTS:
        return None
    if text.lower() in BOOLEANS and text not in ("T", "F"):
        return BOOLEANS[text.lower()]
    is_number = len(text) <= LONGEST_NUMBER and NUMBER.fullmatch(text)
    return _canonical_number(text) if is_number else text


def points_of(column: pa.Array) -> npt.NDArray[np.float64]:
    """Return converted positions as (n, 3) float64, NaN where there is none."""
    points = np.full((len(column), 3), np.nan)
    values = column.flatten().to_numpy(zero_copy_only=False)
    points[column.is_valid().to_numpy(zero_copy_only=False)] = values.reshape(-1, 3)
    return points


def shown(scalar: pa.Scalar) -> str:
    """Return a value as an error shows it: short, on one line."""
    try:
        value = scalar.as_py()
    except (UnicodeDecodeError, ValueError, OverflowError):
        value = scalar.cast(pa.binary()).as_py()
    if value is None:
        return "an empty cell"
    if isinstance(value, bytes):
        value = value.decode(errors="backslashreplace")
    text = " ".join(repr(value).split())
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 3] + "..."


def _refusal(column: pa.Array, kind: Kind, where: str, first_row: int, cure: str) -> ValueError:
    """Return the error that names the first row that does not convert."""
    row = bisect_left(range(len(column) - 1), True, key=lambda r: not _fits(column, kind, r))
    if not column[row].is_valid and column.null_count < len(column):
        row = column.is_valid().index(True).as_py()
    value, type_ = shown(column[row]), _value_type(column.type)
    if kind == "id" and (pa.types.is_floating(type_) or FLOAT_TEXT.fullmatch(value)):
        cure = FLOATS_LOST
    elif kind in ("text", "value") and not _is_text(type_):
        cure = "name another column, or export it as text"
    type_name = "text" if _is_text(type_) else str(type_)
    return ValueError(
        f"{where}, data row {first_row + row + 1}: found {value} of type {type_name}, expected "
        f"{EXPECTED[kind]}; {cure}"
    )


def _fits(column: pa.Array, kind: Kind, row: int) -> bool:
    """Return whether the column's rows up to `row` convert."""
    try:
        _converted(column.slice(0, row + 1), kind)
    except REFUSED:
        return False
    return True


def _converted(column: pa.Array, kind: Kind) -> pa.Array:
    if kind == "value":
        return _values(column)
    return CONVERTERS[kind](_plain(column))


def _value_type(kind: pa.DataType) -> pa.DataType:
    encoded = pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind)
    return _value_type(kind.value_type) if encoded else kind


def _plain(column: pa.Array) -> pa.Array:
    """Return a column without dictionary or run-end encoding, its text as checked UTF-8."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        _check_text_size(column)
        return _plain(column.dictionary_decode())
    if pa.types.is_run_end_encoded(kind):
        return _plain(pc.run_end_decode(column))
    if _is_text(kind):
        column = column.cast(pa.string())  # from binary it checks
        column.validate(full=True)
    return column


def _check_text_size(column: pa.Array) -> None:
    """Refuse text that would take too much memory once it is written out row by row."""
    if _is_text(column.type.value_type):
        lengths = pc.binary_length(column.dictionary).cast(pa.int64())
        size = pc.sum(lengths.take(column.indices)).as_py() or 0
        if size > MAX_TEXT_BYTES:
            raise OverflowError(f"{size / 1e9:.1f} GB of text in {len(column)} rows of a column")


def _is_text(kind: pa.DataType) -> bool:
    return kind in TEXT_TYPES


def _ids(column: pa.Array) -> pa.Array:
    kind = column.type
    if pa.types.is_string(kind):
        return _ids_of_text(column)
    if pa.types.is_integer(kind) or pa.types.is_decimal(kind) or pa.types.is_null(kind):
        return column.cast(pa.int64())
    raise TypeError(kind)


def _ids_of_text(column: pa.Array) -> pa.Array:
    if not pc.all(pc.ascii_is_decimal(column), min_count=0).as_py():
        column = _without_null_words(column)
        if not pc.all(pc.match_substring_regex(column, ID), min_count=0).as_py():
            raise ValueError(column)
        column = pc.replace_substring_regex(column, r"^\+", "")
    return column.cast(pa.int64())


def _numbers(column: pa.Array) -> pa.Array:
    kind = column.type
    if pa.types.is_string(kind):
        column = _without_null_words(column)
    elif not (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_null(kind)
    ):
        raise TypeError(kind)
    numbers = pc.cast(column, pa.float64(), safe=pa.types.is_string(kind))
    is_nan = pc.is_nan(numbers)
    return pc.if_else(is_nan, None, numbers) if pc.any(is_nan).as_py() else numbers


def _positions(column: pa.Array) -> pa.Array:
    kind = column.type
    if pa.types.is_string(kind):
        return _positions_of_text(column)
    if pa.types.is_null(kind):
        return column.cast(pa.list_(pa.float64(), 3))
    if not (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    ):
        raise TypeError(kind)
    if not pc.all(pc.equal(pc.list_value_length(column), 3), min_count=0).as_py():
        raise ValueError(column)
    numbers = _numbers(_plain(pc.list_flatten(column)))
    return _fixed([numbers.take(pa.array(range(a, len(numbers), 3))) for a in range(3)], column)


def _positions_of_text(column: pa.Array) -> pa.Array:
    column = _without_null_words(column)
    parts = pc.extract_regex(column, POINT)
    if parts.null_count != column.null_count:
        raise ValueError(column)
    parts = parts.drop_null()
    return _fixed([_numbers(parts.field(axis)) for axis in ("x", "y", "z")], column)


def _fixed(axes: Sequence[pa.Array], column: pa.Array) -> pa.Array:
    """Return positions of which `axes` hold those that `column` has, in its order."""
    if any(axis.null_count for axis in axes):
        raise ValueError(column)
    points = np.full((len(column), 3), np.nan)
    present = column.is_valid().to_numpy(zero_copy_only=False)
    points[present] = np.stack([axis.to_numpy() for axis in axes], axis=1)
    mask = pa.array(~present)
    return pa.FixedSizeListArray.from_arrays(pa.array(points.reshape(-1)), 3, mask=mask)


def _text(column: pa.Array) -> pa.Array:
    if not pa.types.is_string(column.type):
        return _values(column).dictionary_decode()
    column = pc.utf8_trim_whitespace(column)
    nothing = pc.is_in(column, value_set=pa.array(NULL_TEXTS))
    return pc.if_else(nothing, None, column) if pc.any(nothing).as_py() else column


def _values(column: pa.Array) -> pa.Array:
    """Return a column as a dictionary of canonical texts."""
    if not pa.types.is_dictionary(column.type):
        column = _plain(column)
        if pa.types.is_nested(column.type) or pa.types.is_temporal(column.type):
            raise TypeError(column.type)
        column = column.dictionary_encode()
    distinct = _plain(column.dictionary)
    if pa.types.is_nested(distinct.type) or pa.types.is_temporal(distinct.type):
        raise TypeError(distinct.type)
    texts = [canonical_value(value) for value in distinct.to_pylist()]
    names = sorted({text for text in texts if text is not None})
    codes = {name: code for code, name in enumerate(names)}
    code_of = pa.array([None if t is None else codes[t] for t in texts], pa.int32())
    indices = code_of.take(column.indices.cast(pa.int64()))
    return pa.DictionaryArray.from_arrays(indices, pa.array(names, pa.string()))


def _refuse_rounded(ids: pa.Array, where: str) -> None:
    """Refuse ids that some tool has passed through numbers of fewer digits, and back.

    One large id in many is a floating-point number too, or ends in two zeros; not all of them.
    """
    distinct = ids.slice(0, ROWS_LOOKED_AT).unique().drop_null().to_numpy()
    large = distinct[distinct > 2**FLOAT_BITS]
    if len(large) < MANY_IDS:
        return
    steps = 1 << (np.frexp(large.astype(np.float64))[1].astype(np.int64) - FLOAT_BITS)
    as_floats = steps.min() > 2 and not (large % steps).any()
    if as_floats or not (large % 100).any():
        raise ValueError(
            f"{where}: ids such as {large[0]} are rounded, all of them "
            f"{'floating-point numbers' if as_floats else 'multiples of 100'}: their last digits "
            "are lost; export the column again as integers or text (pandas turns integers with "
            "gaps into floats, Excel keeps 15 digits)"
        )


def _without_null_words(column: pa.Array) -> pa.Array:
    column = pc.utf8_trim_whitespace(column)
    nothing = pc.is_in(pc.utf8_lower(column), value_set=pa.array(NULL_WORDS))
    return pc.if_else(nothing, None, column) if pc.any(nothing).as_py() else column


def _canonical_number(text: str) -> str:
    number = Decimal(text)
    if number == number.to_integral_value():
        return str(int(number))
    return f"{number:f}".rstrip("0").rstrip(".")


CONVERTERS: dict[str, Callable[[Any], Any]] = {
    "id": _ids,
    "number": _numbers,
    "position": _positions,
    "text": _text,
}
