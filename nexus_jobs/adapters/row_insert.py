"""Many rows into a table, in the way that is fastest on each database."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import orjson
from sqlalchemy import (
    JSON,
    Column,
    ColumnElement,
    Connection,
    Insert,
    Table,
    TableValuedAlias,
    Text,
    bindparam,
    cast,
    column,
    func,
    insert,
    select,
)

from nexus_jobs.adapters.database import database_now, now
from nexus_jobs.adapters.prepared import Prepared
from nexus_jobs.adapters.tables import Prose, storable


class RowInsert:
    """Inserts rows; a column that a row lacks is NULL.

    `times` names the columns that are given in seconds from the insertion. To PostgreSQL the rows
    go as one JSON document: the driver binds one value instead of one for each column of each
    row, which takes half the time at 16 rows, and a quarter if nothing else is in the transaction.
    """

    def __init__(self, table: Table, times: Collection[str] = ()) -> None:
        self._times = times
        self._prose = [c.name for c in table.columns if isinstance(c.type, Prose)]
        self._json = [c.name for c in table.columns if isinstance(c.type, JSON)]
        self._empty = dict.fromkeys(c.name for c in table.columns)
        self._plain = Prepared(insert(table))
        self._from_document = Prepared(_from_document(table, times))

    def execute(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> float:
        """Insert at least one row; the time of the insertion."""
        if connection.dialect.name == "postgresql":
            row, *_ = self._from_document.fetch(connection, {"rows": self.document(rows)})
            inserted_at: float = row.at
            return inserted_at
        at = now(connection)
        self._plain.execute(connection, [self._timed(row, at) for row in rows])
        return at

    def document(self, rows: Sequence[Mapping[str, Any]]) -> str:
        """The rows as `recordset` reads them; they may have more than the table's columns."""
        return orjson.dumps([self._written(row) for row in rows]).decode()

    def _written(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """As it stands in the document.

        JSON is text within the text there, or else PostgreSQL would unescape what it cannot hold.
        """
        prose = {name: storable(row.get(name)) for name in self._prose}
        texts = {n: orjson.dumps(row[n]).decode() for n in self._json if row.get(n) is not None}
        return {**row, **prose, **texts}

    def _timed(self, row: Mapping[str, Any], at: float) -> dict[str, Any]:
        times = {n: row[n] + at for n in self._times if row.get(n) is not None}
        return {**self._empty, **row, **times}


def recordset(columns: Sequence[Column[Any]]) -> TableValuedAlias:
    """The rows of the document that is bound as `rows`; JSON is text there."""
    document = cast(bindparam("rows", type_=Text), JSON)
    texts = (Text, Prose, JSON)
    types = [Text() if isinstance(c.type, texts) else c.type for c in columns]
    given = func.json_to_recordset(document).table_valued(
        *(column(c.name, kind) for c, kind in zip(columns, types, strict=True))
    )
    return given.render_derived(with_types=True)


def _from_document(table: Table, times: Collection[str]) -> Insert:
    rows = recordset(list(table.columns))

    def value(of: Column[Any]) -> ColumnElement[Any]:
        if isinstance(of.type, JSON):
            return cast(rows.c[of.name], JSON)
        return rows.c[of.name] + database_now() if of.name in times else rows.c[of.name]

    names = [c.name for c in table.columns]
    return (
        insert(table)
        .from_select(names, select(*map(value, table.columns)))
        .returning(database_now().label("at"))
    )
