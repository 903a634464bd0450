"""The CSV that people hand in and the files they get back."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import IO

import orjson

from nexus_jobs.errors import InvalidRequest
from nexus_jobs.job import Job

LONGEST_LINE = 16 * 1024 * 1024
"""Characters that a line or a cell may have; what is longer is no CSV, and fills the memory."""

JSON = re.compile(r"""\s*[{\[]\s*(["{\[]|$)""")
"""How a file begins that is JSON."""

csv.field_size_limit(LONGEST_LINE)  # the default of 128 KiB is less than a long prompt

OUTPUT_COLUMNS = (
    "output",
    "finish_reason",
    "prompt_tokens",
    "completion_tokens",
    "state",
    "error",
)


@dataclass(frozen=True, slots=True)
class Layout:
    """How a CSV file is to be read; `total` counts its rows below the header."""

    encoding: str
    delimiter: str
    columns: tuple[str, ...]
    total: int


def inspect(stream: IO[bytes]) -> Layout:
    """Read a whole CSV once, keeping none of it, so that nothing is accepted from a broken one.

    Raises:
        InvalidRequest: it cannot be decoded or parsed, or holds no row.
    """
    encoding = _encoding(stream)
    delimiter = _delimiter(stream, encoding)
    with closing(_records(stream, encoding, delimiter)) as records:
        columns = tuple(next(records, ()))
        total = sum(1 for _ in records)
    if columns and JSON.match(columns[0]):
        raise InvalidRequest.of(
            "unreadable_file",
            "the file looks like JSON; send a CSV with a header line and a column of prompts",
            field="file",
        )
    twice = next((name for name, count in Counter(columns).items() if name and count > 1), None)
    if twice is not None:
        raise InvalidRequest.of(
            "duplicate_column", f"the file has more than one column {twice!r}", field="file"
        )
    if total == 0:
        raise InvalidRequest.of(
            "empty_bulk", "the file has no rows below its header line", field="file"
        )
    return Layout(encoding, delimiter, columns, total)


def rows(stream: IO[bytes], layout: Layout) -> Generator[list[str], None, None]:
    """The cells of each row in turn; blank lines are no rows. Close it before the stream."""
    records = _records(stream, layout.encoding, layout.delimiter)
    next(records, None)
    return records


def prompt_column(layout: Layout, asked: str | None) -> int:
    """Where the prompts are: the column asked for, or `prompt`.

    Raises:
        InvalidRequest: there is no such column; the message lists those there are.
    """
    name = asked if asked is not None else "prompt"
    if name in layout.columns:
        return layout.columns.index(name)
    raise InvalidRequest.of(
        "missing_column",
        f"the file has no column {name!r} (it has: {', '.join(map(repr, layout.columns))}); "
        "name the column with the prompts in `prompt_column`",
        field="prompt_column",
    )


def write_csv(columns: Sequence[str], jobs: Iterable[Job]) -> Iterator[bytes]:
    """The input's columns, then what came of each row, as pieces of a UTF-8 CSV."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow([*columns, *_output_columns(columns)])
    for number, job in enumerate(jobs, start=1):
        writer.writerow([*_cells(job, len(columns)), *_outputs(job)])
        if number % 500 == 0:
            yield _drain(buffer)
    yield _drain(buffer)


def write_jsonl(columns: Sequence[str], jobs: Iterable[Job]) -> Iterator[bytes]:
    """The same as `write_csv`, as one JSON object a line; columns without a name get one."""
    names = [*_named(columns), *_output_columns(columns)]
    for job in jobs:
        values = [*_cells(job, len(columns)), *_outputs(job)]
        yield orjson.dumps(dict(zip(names, values, strict=True)), option=orjson.OPT_APPEND_NEWLINE)


def _encoding(stream: IO[bytes]) -> str:
    stream.seek(0)
    head = stream.read(4096)
    if head.startswith(codecs.BOM_UTF8):
        return "utf-8-sig"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    even, odd = head[0::2].count(0), head[1::2].count(0)
    if max(even, odd) * 4 > len(head):  # UTF-16 without a mark: mostly ASCII has every other 0
        return "utf-16-le" if odd > even else "utf-16-be"
    return "utf-8"


def _delimiter(stream: IO[bytes], encoding: str) -> str:
    stream.seek(0)
    beginning = codecs.getincrementaldecoder(encoding)("replace").decode(stream.read(65536))
    header = beginning.partition("\n")[0]
    # a tie, as in a file of one column, goes to the comma
    return max(",;\t", key=lambda each: len(next(csv.reader([header], delimiter=each), ())))


def _records(stream: IO[bytes], encoding: str, delimiter: str) -> Generator[list[str], None, None]:
    stream.seek(0)
    text = io.TextIOWrapper(stream, encoding=encoding, newline="")
    reader = csv.reader(_lines(text), delimiter=delimiter, strict=True)
    try:
        for record in reader:
            if any("\x00" in cell for cell in record):
                raise _unreadable(reader.line_num, "it holds NUL characters; is it a CSV file?")
            if record:
                yield record
    except UnicodeDecodeError as error:
        raise _unreadable(
            _undecodable_line(stream, encoding),
            f"what follows is not {encoding.upper()}; save the file as UTF-8",
        ) from error
    except csv.Error as error:
        raise _unreadable(reader.line_num, f"{error}; is a quote left open?") from error
    finally:
        text.detach()


def _lines(text: io.TextIOWrapper) -> Iterator[str]:
    while line := text.readline(LONGEST_LINE + 1):
        if len(line) > LONGEST_LINE:
            raise csv.Error(f"a line has more than {LONGEST_LINE} characters")
        yield line


def _undecodable_line(stream: IO[bytes], encoding: str) -> int:
    """Found by reading once more, as text is decoded in pieces that end anywhere."""
    decoder = codecs.getincrementaldecoder(encoding)()
    stream.seek(0)
    number = 1
    with suppress(UnicodeDecodeError):
        while piece := stream.readline(65536):
            decoder.decode(piece)
            number += piece.endswith(b"\n")
    return number


def _unreadable(line: int, reason: str) -> InvalidRequest:
    return InvalidRequest.of(
        "unreadable_file", f"the file cannot be read from line {line} on: {reason}", field="file"
    )


def _named(columns: Sequence[str]) -> Iterator[str]:
    """The columns, those without a name by their places."""
    taken = set(columns)
    for place, name in enumerate(columns, start=1):
        unnamed = f"column_{place}"
        while unnamed in taken:
            unnamed = f"nexus_{unnamed}"
        yield name or unnamed


def _output_columns(columns: Sequence[str]) -> list[str]:
    """Our columns, renamed as far as the input has columns of these names."""
    free = []
    for name in OUTPUT_COLUMNS:
        while name in columns:
            name = f"nexus_{name}"
        free.append(name)
    return free


def _cells(job: Job, width: int) -> list[str]:
    cells = list(job.cells or ())[:width]
    return cells + [""] * (width - len(cells))


def _outputs(job: Job) -> list[str | int | None]:
    result, error = job.result, job.error
    return [
        result.text if result else None,
        result.finish_reason if result else None,
        result.prompt_tokens if result else None,
        result.completion_tokens if result else None,
        job.state,
        f"{error.code}: {error.message}" if error else None,
    ]


def _drain(buffer: io.StringIO) -> bytes:
    text = buffer.getvalue()
    buffer.seek(0)
    buffer.truncate()
    return text.encode()
