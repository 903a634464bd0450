"""What `nexus up` refuses before it starts anything."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nexus_jobs.cli import preflight
from nexus_jobs.cli.preflight import check_host, check_ports, locked
from nexus_jobs.errors import ConfigError


def test_a_second_run_on_the_same_folder_is_refused_and_told_who_holds_it(tmp_path: Path) -> None:
    with (
        locked(tmp_path),
        pytest.raises(ConfigError, match=rf"pid {os.getpid()}\b"),
        locked(tmp_path),
    ):
        pass


def test_a_folder_is_free_again_after_a_run(tmp_path: Path) -> None:
    with locked(tmp_path):
        pass
    with locked(tmp_path) as ended_cleanly:
        assert ended_cleanly


def test_a_folder_in_which_nothing_can_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "nexus.lock").mkdir()  # as root may write everywhere
    with pytest.raises(ConfigError, match="cannot be used: Is a directory"), locked(tmp_path):
        pass


def test_a_run_that_ends_with_an_error_has_ended_cleanly(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(tmp_path):
        raise ZeroDivisionError
    with locked(tmp_path) as ended_cleanly:
        assert ended_cleanly


def test_a_killed_run_leaves_its_folder_free_but_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "nexus.lock").write_text("4711")
    with locked(tmp_path) as ended_cleanly:
        assert not ended_cleanly
        assert (tmp_path / "nexus.lock").read_text() == str(os.getpid())


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.10", "nohost", "127.0.0.300"])
def test_an_address_that_others_can_reach_is_refused(host: str) -> None:
    with pytest.raises(ConfigError, match=r"no loopback address .* no API keys"):
        check_host(host)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_a_loopback_address_is_allowed(host: str) -> None:
    check_host(host)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_a_port_in_use_is_refused_with_the_option_that_moves_it(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    with pytest.raises(ConfigError, match=f"port {port} is in use; choose another with --port"):
        check_ports({"--port": ("127.0.0.1", port)}, patient=False)


@pytest.mark.parametrize("role", ["api", "flower"])
def test_a_role_does_not_share_a_port_that_is_in_use(
    role: str, nexus: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr("granian.Granian.serve", lambda *_, **__: pytest.fail("it listens"))
    monkeypatch.setattr("os.execv", lambda *_: pytest.fail("it starts"))
    monkeypatch.setattr(preflight, "_LEFTOVERS_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as other:
        port = other.getsockname()[1]
        assert nexus(role, "--port", str(port)) == 1
    assert capsys.readouterr().err == f"Error: port {port} is in use; choose another with --port\n"


@pytest.mark.parametrize("host", ["127.0.0.300", "203.0.113.9"])
def test_an_address_of_no_machine_or_of_another_one_is_refused(host: str) -> None:
    with pytest.raises(ConfigError, match=f"cannot listen on {host}"):
        check_ports({"--port": (host, 18080)}, patient=False)


def test_what_a_killed_run_left_behind_has_time_to_end(listener: socket.socket) -> None:
    address = listener.getsockname()
    ending = threading.Timer(0.2, listener.close)
    ending.start()
    check_ports({"--port": address}, patient=True)
    ending.join()


def test_patience_ends(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "_LEFTOVERS_SECONDS", 0.2)
    with pytest.raises(ConfigError):
        check_ports({"--port": listener.getsockname()}, patient=True)
