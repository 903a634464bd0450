"""The CSV files people really have, and the ones they should be told about."""

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_jobs import bulk
from nexus_jobs.errors import InvalidRequest
from nexus_jobs.job import FinishReason, Job, JobError, Request, Result
from nexus_jobs.states import State


def read(data: bytes):
    stream = io.BytesIO(data)
    layout = bulk.inspect(stream)
    return layout, list(bulk.rows(stream, layout))


def refused(data: bytes) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as error:
        read(data)
    return error.value


PLAIN = "id,prompt\n1,Grüße\n2,zwei\n"


@pytest.mark.parametrize(
    "data",
    [
        PLAIN.encode(),
        PLAIN.encode("utf-8-sig"),
        PLAIN.encode("utf-16"),
        PLAIN.encode("utf-16-le"),
        PLAIN.encode("utf-16-be"),
        PLAIN.replace("\n", "\r\n").encode(),
        PLAIN.replace(",", ";").encode(),
        PLAIN.replace(",", "\t").encode(),
        PLAIN.replace("\n", "\n\n").encode(),
        PLAIN.rstrip("\n").encode(),
    ],
    ids=["utf8", "bom", "utf16", "utf16le", "utf16be", "crlf", "semicolon", "tab", "blank", "end"],
)
def test_encodings_delimiters_and_line_ends_are_recognised(data):
    layout, rows = read(data)
    assert layout.columns == ("id", "prompt")
    assert layout.total == 2
    assert rows == [["1", "Grüße"], ["2", "zwei"]]


def test_a_quoted_cell_may_hold_lines_commas_and_quotes():
    _, rows = read(b'id,prompt\n1,"two\nlines, and ""quotes"""\n')
    assert rows == [["1", 'two\nlines, and "quotes"']]


def test_a_cell_may_be_longer_than_the_csv_module_allows_by_default():
    _, rows = read(b"prompt\n" + b"x" * 200_000 + b"\n")
    assert len(rows[0][0]) == 200_000


@pytest.mark.parametrize(
    ("data", "code", "hint"),
    [
        (b"", "empty_bulk", "no rows"),
        (b"id,prompt\n", "empty_bulk", "no rows"),
        (b'prompt\n"open\nnever closed\n', "unreadable_file", "is a quote left open?"),
        (b"prompt\nok\nGr\xfc\xdfe\n", "unreadable_file", "save the file as UTF-8"),
        (b"a,a\n1,2\n", "duplicate_column", "more than one column 'a'"),
        (b"prompt\nab\x00cdefghijklmnop\n", "unreadable_file", "NUL"),
        (b'{"prompt": "a"}\n{"prompt": "b"}\n', "unreadable_file", "looks like JSON"),
        (b'[\n{"prompt": "a"}]\n', "unreadable_file", "looks like JSON"),
        (b"x" * (bulk.LONGEST_LINE + 1), "unreadable_file", "a line has more than"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_as_a_whole(data, code, hint):
    error = refused(data)
    assert error.code == code
    assert hint in str(error)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_the_line_that_cannot_be_read_is_named(encoding):
    good = "prompt\n" + "".join(f"line {n} ä\n" for n in range(2, 1501))
    bad = b"\xfcber" if encoding == "utf-8" else b"\x00\xdc\x00\xdc"
    assert "from line 1501 on" in str(refused(good.encode(encoding) + bad))


@pytest.mark.parametrize("header", [b'"x;y;z;a",prompt', b"{col},prompt", b"[a],prompt"])
def test_a_header_may_have_odd_names(header):
    layout, rows = read(header + b"\n1,hello\n")
    assert (len(layout.columns), layout.columns[1], rows) == (2, "prompt", [["1", "hello"]])


def test_a_file_may_have_very_many_columns():
    names = [f"c{n}" for n in range(300_000)]
    layout, _ = read(",".join([*names, "prompt"]).encode() + b"\nx\n")
    assert layout.columns[-1] == "prompt"


def test_the_prompt_column_is_found_or_asked_for():
    layout, _ = read(b"id,text\n1,a\n")
    assert bulk.prompt_column(layout, "text") == 1
    with pytest.raises(InvalidRequest, match=r"no column 'prompt' \(it has: 'id', 'text'\)"):
        bulk.prompt_column(layout, None)
    only, _ = read(b"question\na\n")
    with pytest.raises(InvalidRequest, match="name the column"):
        bulk.prompt_column(only, None)


cells = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x00"), min_size=1)


@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=20))
def test_whatever_a_csv_writer_writes_is_read_back(table):
    text = io.StringIO(newline="")
    csv.writer(text).writerows([("left", "right"), *table])
    layout, rows = read(text.getvalue().encode())
    assert rows == [list(row) for row in table]
    assert layout.total == len(table)


def job(cells, *, result=None, error=None, state=State.SUCCEEDED):
    return Job(
        id="j", request=Request(model="m", prompt="p"), state=state, attempt=1, max_attempts=3,
        submitted_at=0.0, due_at=0.0, cells=cells, result=result, error=error,
    )  # fmt: skip


ANSWER = Result(
    text='a "b"\nc', finish_reason=FinishReason.STOP, prompt_tokens=3, completion_tokens=4
)
JOBS = [
    job(["1", "x"], result=ANSWER),
    job(["2"], error=JobError("empty_prompt", "empty"), state=State.FAILED),
    job(["3", "y", "too many"], state=State.QUEUED),
]


def test_the_output_keeps_the_input_and_adds_what_came_of_it():
    text = b"".join(bulk.write_csv(["id", "prompt"], JOBS)).decode()
    header, *rows = list(csv.reader(io.StringIO(text, newline="")))
    assert header == ["id", "prompt", *bulk.OUTPUT_COLUMNS]
    assert rows == [
        ["1", "x", 'a "b"\nc', "stop", "3", "4", "succeeded", ""],
        ["2", "", "", "", "", "", "failed", "empty_prompt: empty"],
        ["3", "y", "", "", "", "", "queued", ""],
    ]


def test_the_output_of_an_output_keeps_both():
    text = b"".join(bulk.write_csv(["prompt", "output"], [job(["x", "old"], result=ANSWER)]))
    assert text.decode().splitlines()[0].startswith("prompt,output,nexus_output,finish_reason")
    text = b"".join(bulk.write_csv(["output", "nexus_output"], []))
    assert text.decode().startswith("output,nexus_output,nexus_nexus_output,finish_reason")


def test_columns_without_a_name_may_stand_beside_each_other():
    layout, rows = read(b"prompt,,\na,,\n")
    assert (layout.columns, rows) == (("prompt", "", ""), [["a", "", ""]])


def test_no_cell_of_a_column_without_a_name_is_lost_in_json():
    columns = ["prompt", "", "", "column_3"]
    (line,) = bulk.write_jsonl(columns, [job(["a", "b", "c", "d"])])
    told = list(json.loads(line).items())[:4]
    assert told == [("prompt", "a"), ("column_2", "b"), ("nexus_column_3", "c"), ("column_3", "d")]


def test_the_output_comes_as_json_lines_too():
    lines = b"".join(bulk.write_jsonl(["id", "prompt"], JOBS)).splitlines()
    assert json.loads(lines[0])["output"] == 'a "b"\nc'
    assert json.loads(lines[1])["error"] == "empty_prompt: empty"
