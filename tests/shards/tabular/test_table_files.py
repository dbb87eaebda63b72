"""Tables of every kind through one typed path: right values, or one line that says why not."""

import bz2
import gzip
import io
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather as pa_feather
import pyarrow.parquet as pq
import pytest

from shards.tabular.table_files import Column, Kind, canonical_value, open_table_file, points_of

BIG = 864691135463510246  # no float holds it
ALL = {"i": Column("id", "id"), "v": Column("v", "value"), "p": Column("p", "position")}
TEXT = f"id,v,p\n{BIG},t,[1 2 3]\n7,b,\n"
ROWS = [{"i": BIG, "v": "true", "p": [1, 2, 3]}, {"i": 7, "v": "b", "p": None}]


def zipped(data: bytes) -> bytes:
    """Return the same gzip data in every process: the name of a test holds it."""
    return gzip.compress(data, mtime=0)


def read(path: Path, columns: Mapping[str, Column] = ALL, **options: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = open_table_file(str(path), **options).read(columns).to_pylist()
    return rows


def converted(folder: Path, values: Any, kind: Kind) -> list[Any]:
    """Return a column's values after a parquet file and after an Arrow stream."""
    table = pa.table({"c": values})
    pq.write_table(table, folder / "t.parquet", row_group_size=2)
    with pa.ipc.new_stream(str(folder / "t.arrow"), table.schema) as writer:
        writer.write_table(table)
    parquet, arrow = (
        [row["o"] for row in read(folder / name, {"o": Column("c", kind)})]
        for name in ("t.parquet", "t.arrow")
    )
    assert parquet == arrow
    return parquet


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("t.csv", TEXT.encode()),
        ("T.CSV", TEXT.encode()),
        ("t.tsv", TEXT.replace(",", "\t").encode()),
        ("t.csv", TEXT.replace(",", ";").encode()),
        ("t.csv", TEXT.replace(",", "|").encode()),
        ("t.csv", TEXT.replace("\n", "\r\n").encode()),
        ("t.csv", TEXT.replace("[1 2 3]", '"(1,\n2,\n 3)"').encode()),
        ("t.csv", TEXT.replace("7,b", '" +7 "," b "').encode()),
        ("t.csv", ("\n\n" + TEXT.replace("\n", "\n\n")).encode()),
        ("t.csv", TEXT.encode("utf-8-sig")),
        ("t.csv", TEXT.encode("utf-16")),
        ("t.csv.gz", zipped(TEXT[:20].encode()) + zipped(TEXT[20:].encode())),
        ("t.csv", zipped(TEXT.encode())),
        ("t.csv.bz2", bz2.compress(TEXT.encode())),
        ("t.csv.zst", pa.compress(TEXT.encode(), "zstd", asbytes=True)),
        ("t.csv", TEXT.replace("p\n", "p,ö\n").replace("\n7,b,", ",ü\n7,b,,").encode("latin1")),
    ],
)  # fmt: skip
def test_text_tables_however_they_are_written(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    assert read(tmp_path / name) == ROWS


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("t.csv", b"", "t.csv: an empty file"),
        ("t.csv", b"\n \r\n", "no column id"),
        ("t.csv", b"\n\n", "blank lines alone"),
        ("t.csv", b"id,v,p\n", "t.csv: a table without rows"),
        ("t.csv", b"id,v,p", "t.csv: a table without rows"),
        ("t.csv", b"id v p\n1 2 3\n", "no column id; it has id v p;"),
        ("t.csv", b"id,v,p,v\n1,2,3,4\n", "2 columns are called v; rename all but one"),
        ("t.csv", b"id,v,p\n1,a,\n1,a\n", r"Row #3: Expected 3 columns, got 2.*quotes"),
        ("t.csv", b"id,v,p\n1,\"a,\n1,a,\n", "Row #2: Expected 3 columns"),
        ("t.csv", "id,v,p\n1,ä,\n".encode("latin1"), r"column v, data row 1: found .*xe4.*UTF-8"),
        ("t.csv", "id,v,p\n".encode("utf-16-le"), "null bytes; save it as CSV in UTF-8"),
        ("t.csv", b"PK\x03\x04rest", "a zip archive, or an Excel sheet: unpack it"),
        ("t.csv.gz", b"\n<!DOCTYPE html>", "an HTML page"),
        ("t.csv", b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        ("t.csv.gz", zipped(TEXT.encode() * 99)[:-9], "t.csv.gz: .*cut short.*Truncated"),
        ("t.csv.gz", zipped(b"id\n1\n") + b"x" * 9, "t.csv.gz: damaged.*zlib"),
        ("t.parquet", b"PAR1" + b"x" * 90, "t.parquet: damaged, cut short"),
        ("t.parquet", b"nothing", "t.parquet: not a parquet file"),
        ("t.arrow", b"ARROW1" + b"x" * 90, "t.arrow: damaged"),
        ("t.feather", b"x" * 90, "t.feather: damaged"),
        ("t.xlsx", b"x", r"unknown kind of table, expected one of \.parquet"),
    ],
)  # fmt: skip
def test_files_that_are_no_table(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / name)


def test_paths_that_are_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.csv: no such table; correct its path"):
        open_table_file(str(tmp_path / "none.csv"))
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(ValueError, match=r"folder\.csv.* is a directory"):
        open_table_file(str(tmp_path / "folder.csv"))


@pytest.mark.filterwarnings("ignore:Feather V1:DeprecationWarning")
def test_feather_of_version_1_is_named(tmp_path: Path) -> None:
    pa_feather.write_feather(pd.DataFrame({"c": [1]}), tmp_path / "t.feather", version=1)
    with pytest.raises(ValueError, match="feather file of version 1: write it again"):
        open_table_file(str(tmp_path / "t.feather"))


def test_a_header_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(TEXT.partition("\n")[2])
    assert read(tmp_path / "t.csv", header=["id", "v", "p"]) == ROWS
    with pytest.raises(ValueError, match=r"first row has 3 fields .* names 2; give the header"):
        read(tmp_path / "t.csv", header=["id", "v"])
    pq.write_table(pa.table({"id": [1]}), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"t\.parquet: knows its columns' names; remove `header`"):
        read(tmp_path / "t.parquet", header=["id", "v"])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([BIG, None, 3], pa.int64()), [BIG, None, 3]),
        (pa.array([BIG, None], pa.uint64()), [BIG, None]),
        (pa.array([-1, None], pa.int8()), [-1, None]),
        (pa.array([Decimal(BIG), None]), [BIG, None]),
        (pa.array([Decimal("3.00")]), [3]),
        (pa.array([str(BIG), "", " 7 ", "+8", "007", "NULL", "nan", None]),
         [BIG, None, 7, 8, 7, None, None, None]),
        (pa.array([str(BIG), None], pa.large_string()), [BIG, None]),
        (pa.array([str(BIG).encode()]), [BIG]),
        (pa.array([str(BIG), None, str(BIG)]).dictionary_encode(), [BIG, None, BIG]),
        (pa.array([BIG, None]).dictionary_encode(), [BIG, None]),
        (pa.nulls(3), [None] * 3),
        (pd.Series([BIG, None], dtype="Int64"), [BIG, None]),
        (pd.Series([str(BIG), None], dtype="string"), [BIG, None]),
    ],
)  # fmt: skip
def test_ids_keep_every_digit(tmp_path: Path, values: Any, expected: list[Any]) -> None:
    assert converted(tmp_path, values, "id") == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (pa.array([None, 8.0e17]), r"row 2: found 8e\+17 of type double.*lose the last digits"),
        (pa.array([None, np.nan]), "row 2: found nan of type double.*lose the last digits"),
        (pa.array([1.0], pa.float32()), "found 1.0 of type float,.*export the column again"),
        (pa.array([1.0]).dictionary_encode(), "found 1.0 of type double.*lose the last digits"),
        (pa.array(["1", "2", "1e18"]), "row 3: found '1e18' of type text.*lose the last digits"),
        (pa.array(["1.0"]), r"found '1\.0' of type text.*lose the last digits"),
        (pa.array(["7", "1,000"]), "row 2: found '1,000' of type text.*correct it"),
        (pa.array(["0x10"]), "found '0x10'"),
        (pa.array(["1_000"]), "found '1_000'"),
        (pa.array(["١"]), "found '١'"),
        (pa.array([1, 2**63], pa.uint64()), "row 2: found 9223372036854775808 .*2.63 - 1"),
        (pa.array([str(2**63)]), "found '9223372036854775808' of type text.*correct it"),
        (pa.array([Decimal("1.5")]), r"found Decimal\('1\.5'\)"),
        (pa.array([True]), "found True of type bool"),
        (pa.array([[1]]), r"found \[1\] of type list"),
        (pa.array([{"a": 1}]), r"found \{'a': 1\} of type struct"),
        (pd.Series(["2020-01-01"], dtype="datetime64[ns]"), "of type timestamp"),
    ],
)
def test_ids_that_are_none(tmp_path: Path, values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"t\.parquet: column c, data .*{message}"):
        converted(tmp_path, values, "id")


@pytest.mark.parametrize("dtype", [np.int64, str])
@pytest.mark.parametrize("step", [128, 1000])
def test_ids_that_were_rounded_on_their_way_here(tmp_path: Path, step: int, dtype: Any) -> None:
    exact = 864691135463510246 + 1234567 * np.arange(20)
    rounded = (exact // step * step).astype(dtype)
    assert converted(tmp_path, exact.astype(dtype).tolist(), "id") == exact.tolist()
    with pytest.raises(ValueError, match=r"column c: ids such as \d+ are rounded.*digits are lost"):
        converted(tmp_path, rounded.tolist(), "id")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([1.5, None, np.nan, np.inf]), [1.5, None, None, np.inf]),
        (pa.array([1, None]), [1.0, None]),
        (pa.array(["1.5", "", " 2 ", "NA", "1e3", "-inf"]), [1.5, None, 2.0, None, 1e3, -np.inf]),
        (pa.array([Decimal("1.5")]), [1.5]),
        (pa.nulls(1), [None]),
    ],
)
def test_numbers(tmp_path: Path, values: Any, expected: list[Any]) -> None:
    assert converted(tmp_path, values, "number") == expected


@pytest.mark.parametrize("values", [["1,5"], ["many"], [True], [[1.0]]])
def test_numbers_that_are_none(tmp_path: Path, values: list[Any]) -> None:
    with pytest.raises(ValueError, match=r"data row 1: found .*, expected a number, with a point"):
        converted(tmp_path, pa.array(values), "number")


POINTS = [[1.0, 2.0, 3.0], None, [4.5, 5.0, np.inf]]


@pytest.mark.parametrize(
    "values",
    [
        pa.array(POINTS),
        pa.array(POINTS, pa.list_(pa.float64(), 3)),
        pa.array(POINTS, pa.large_list(pa.float32())),
        pa.array([[str(v) for v in p] if p else None for p in POINTS]),
        pa.array(["[1 2 3]", "", "[4.5 5 inf]"]),
        pa.array(["[1, 2, 3]", None, "[4.5,5.0,Infinity]"]),
        pa.array(["(1,2,3)", "null", " ( 4.5 , 5 , +inf ) "]),
        pa.array(["1 2 3", "NaN", "[ 4.5\n 5.  inf]"]),
        pa.array(["{1;2;3}", "", "45e-1 .5e1 inf"]),
    ],
)
def test_positions(tmp_path: Path, values: Any) -> None:
    assert converted(tmp_path, values, "position") == POINTS
    table = open_table_file(str(tmp_path / "t.arrow")).read({"o": Column("c", "position")})
    found = points_of(table["o"].combine_chunks())
    np.testing.assert_array_equal(found, [POINTS[0], [np.nan] * 3, POINTS[2]])


@pytest.mark.parametrize(
    "values",
    [
        [[1, 2, 3], [1, 2]],
        [[1, 2, 3], []],
        [[1, 2, 3], [1, None, 3]],
        [[1.0, 2, 3], [1, np.nan, 3]],
        ["[1 2 3]", "[1 2]"],
        ["[1 2 3]", "[1,,2]"],
        ["[1 2 3]", "[1 2 nan]"],
        ["[1 2 3]", "[1 2 3 4]"],
        ["[1 2 3]", "POINT Z (1 2 3)"],
        ["[1 2 3]", "1,5 2,5 3,5"],
    ],
)
def test_positions_that_are_none(tmp_path: Path, values: list[Any]) -> None:
    with pytest.raises(ValueError, match=r"column c, data row 2: found .*, expected three numbers"):
        converted(tmp_path, pa.array(values), "position")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([True, None, False]), ["true", None, "false"]),
        (pa.array(["True", "t", "yes", "on"]), ["true"] * 4),
        (pa.array(["FALSE", "f", "No", "off"]), ["false"] * 4),
        (pa.array([1, None, 0]), ["1", None, "0"]),
        (pa.array([1.0, np.nan, -0.0, 2.5]), ["1", None, "0", "2.5"]),
        (pa.array(["1", "1.0", " +1 ", "1.50"]), ["1", "1", "1", "1.5"]),
        (pa.array(["01", "", "1e2"]), ["01", None, "100"]),
        (pa.array([Decimal("1.00"), None]), ["1", None]),
        (pa.array(["E", None, "E", "NA", "T"]).dictionary_encode(), ["E", None, "E", "NA", "T"]),
        (pd.Series([True, None], dtype="boolean"), ["true", None]),
        (pd.Categorical(["a", None]), ["a", None]),
        (pa.array([str(BIG), str(BIG + 1)]), [str(BIG), str(BIG + 1)]),
    ],
)  # fmt: skip
def test_values_are_what_they_mean(tmp_path: Path, values: Any, expected: list[Any]) -> None:
    assert converted(tmp_path, pa.array(values), "value") == expected
    assert [canonical_value(v) for v in pa.array(values).to_pylist()] == expected


def test_a_type_does_not_change_from_row_group_to_row_group(tmp_path: Path) -> None:
    values = pa.array([None] * 4 + [BIG, None, BIG + 1])
    assert converted(tmp_path, values, "id") == values.to_pylist()
    with pytest.raises(ValueError, match="data row 6: found 'x'"):
        converted(tmp_path, pa.array(["1", "2", None, None, "5", "x"]), "id")


def test_columns_late_in_a_long_csv_decide_nothing_early(tmp_path: Path) -> None:
    """The column is empty, then whole, then fractional, over more than one block of reading."""
    text = io.StringIO()
    text.write("id,size\n")
    text.writelines(
        f"{n},{'' if n < 10**6 else n / 2 if n > 1_900_000 else n}\n" for n in range(2 * 10**6)
    )
    (tmp_path / "t.csv").write_text(text.getvalue())
    table = open_table_file(str(tmp_path / "t.csv")).read({"s": Column("size", "number")})
    assert table["s"].null_count == 10**6
    assert table["s"][-1].as_py() == (2 * 10**6 - 1) / 2


def test_a_table_that_unpacks_to_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNSHARDS_TABLE_GB", "0.001")
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"id\n" + b"1\n" * (20 << 20)))
    with pytest.raises(
        ValueError, match=r"unpack to more than 0\.001 GB.*raise SYNSHARDS_TABLE_GB"
    ):
        read(tmp_path / "t.csv.gz", {"i": Column("id", "id")})
    pq.write_table(
        pa.table({"id": np.arange(200_000), "x": np.zeros(200_000)}), tmp_path / "t.parquet"
    )
    with pytest.raises(ValueError, match=r"row group 0 unpacks to .*SYNSHARDS_TABLE_GB"):
        read(tmp_path / "t.parquet", {"i": Column("id", "id")})
    monkeypatch.setenv("SYNSHARDS_TABLE_GB", "0.1")
    assert len(read(tmp_path / "t.parquet", {"x": Column("x", "number")})) == 200_000


def test_a_few_bytes_of_parquet_that_are_many_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYNSHARDS_TABLE_GB", "0.01")
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"x": np.zeros(3_000_000), "id": np.zeros(3_000_000, int)}), path)
    columns = {"x": Column("x", "number"), "i": Column("id", "id")}
    with pytest.raises(ValueError, match=r"bytes say that they hold 3000000 rows; raise SYNSHARDS"):
        read(path, columns)


@pytest.mark.parametrize("kind", ["text", "id", "number", "position"])
def test_a_long_text_that_comes_a_million_times(tmp_path: Path, kind: Kind) -> None:
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 200_000, pa.int32()), ["9" * 20_000])
    pq.write_table(pa.table({"c": texts}), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"t\.parquet: .*4\.0 GB of text in 200000 rows"):
        read(tmp_path / "t.parquet", {"o": Column("c", kind)})
    table = open_table_file(str(tmp_path / "t.parquet")).read({"o": Column("c", "value")})
    assert table.num_rows == 200_000
    assert table["o"][-1].as_py() == "9" * 20_000


def test_a_damaged_footer_of_parquet_is_a_table_or_an_error(tmp_path: Path) -> None:
    """For some of these bits, pyarrow's metadata of a column ends the process."""
    whole = io.BytesIO()
    pq.write_table(pa.table({"id": [1, 2, 3], "name": ["a", "b", None]}), whole, row_group_size=2)
    data = whole.getvalue()
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    path, refused = tmp_path / "t.parquet", 0
    for bit in range(8 * footer, 8 * footer + 300):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            columns = {"id": Column("id", "id"), "name": Column("name", "text")}
            list(open_table_file(str(path)).batches(columns))
        except ValueError:
            refused += 1
    assert refused > 100
