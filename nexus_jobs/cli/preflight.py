"""What is checked before `nexus up` starts anything."""

from __future__ import annotations

import errno
import fcntl
import ipaddress
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from nexus_jobs.errors import ConfigError

_LEFTOVERS_SECONDS: Final = 10.0


@contextmanager
def locked(data_dir: Path) -> Iterator[bool]:
    """Hold the data folder; yields whether the run before this one ended cleanly.

    Raises:
        ConfigError: another `nexus up` holds the folder, or it cannot be used.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        lock = (data_dir / "nexus.lock").open("a+")
    except OSError as error:
        raise ConfigError(f"the data folder {data_dir} cannot be used: {error.strerror}") from error
    with lock as file:
        file.seek(0)
        pid = file.read().strip()
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"`nexus up` already runs on {data_dir} (pid {pid}); stop it, or use --data-dir"
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield not pid
        finally:
            file.truncate(0)


def check_host(host: str) -> None:
    """Refuse an address that other machines can reach, since nothing would keep them out.

    Raises:
        ConfigError: it is no loopback address.
    """
    if not _is_loopback(host):
        raise ConfigError(
            f"host {host} is no loopback address like 127.0.0.1; other machines could reach it, "
            "and there are no API keys yet: use a reverse proxy that asks for credentials"
        )


def check_ports(ports: Mapping[str, tuple[str, int]], *, patient: bool) -> None:
    """Refuse ports that are taken; `ports` has them by the option or variable that moves each.

    `patient` gives processes that a killed run has left behind some time to end.

    Raises:
        ConfigError: a port is in use, or its address is none of this machine.
    """
    numbers = [port for _, port in ports.values()]
    if len(set(numbers)) < len(numbers):
        raise ConfigError(f"{' and '.join(ports)} name the same port {numbers[0]}")
    deadline = time.monotonic() + (_LEFTOVERS_SECONDS if patient else 0)
    for option, (host, port) in ports.items():
        while _is_taken(host, port):
            if time.monotonic() >= deadline:
                raise ConfigError(f"port {port} is in use; choose another with {option}")
            time.sleep(0.1)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_taken(host: str, port: int) -> bool:
    """Whether somebody listens there, even if they would share the port (SO_REUSEPORT)."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return True
            raise ConfigError(f"cannot listen on {host}, port {port}: {error.strerror}") from error
        return False
