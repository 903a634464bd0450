"""How much memory there is for models, and how much they take. All figures are MiB."""

from __future__ import annotations

import gc
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

from nexus_jobs.config import WorkerSettings

MIB: Final = 2**20
SHARE: Final = 0.8
"""What the models of all workers here may hold of the memory that this process may use."""
_CGROUPS: Final = Path("/sys/fs/cgroup")


def budget(settings: WorkerSettings) -> float:
    """What the models of a worker may hold together."""
    here = min([psutil.virtual_memory().total, *_limits()]) / MIB
    return float(settings.memory_mb or SHARE * here / settings.per_machine)


def resident(pid: int | None = None) -> float | None:
    """What a process (this one if None) has in memory; None if it is gone."""
    try:
        return float(psutil.Process(pid).memory_info().rss / MIB)
    except psutil.NoSuchProcess:
        return None


def give_back() -> None:
    """Return what has been freed to the system, where the C library keeps it until it is told."""
    gc.collect()
    with suppress(AttributeError):  # a C library that psutil does not know
        psutil.heap_trim()


def on_gpu(devices: Collection[str]) -> float | None:
    """What is in use on the CUDA devices among these, as NVML tells; None if it cannot."""
    used = [device for device in devices if device.startswith("cuda")]
    if not used:
        return None
    import torch  # loaded already: nothing else here runs models on such a device

    try:
        return sum(torch.cuda.device_memory_used(torch.device(one)) for one in used) / MIB
    except (ImportError, RuntimeError):  # NVML's package, or what it stands on, is missing
        return None


def _limits(processes: Path = Path("/proc/self/cgroup"), root: Path = _CGROUPS) -> list[int]:
    """The bounds in bytes of the control groups that this process is in; none off Linux."""
    if not processes.exists():
        return []
    found: list[int] = []
    for line in processes.read_text().splitlines():
        _, controllers, group = line.split(":", 2)
        if not controllers:
            found += _read(root, group, "memory.max")
        elif "memory" in controllers.split(","):
            found += _read(root / "memory", group, "memory.limit_in_bytes")
    return found


def _read(root: Path, group: str, file: str) -> Iterator[int]:
    """The bounds of a group and of those it is in.

    In a container the path may be one of the host, and its own bound lies at the root.
    """
    here = root / group.lstrip("/")
    for folder in (here, *here.parents):
        if folder.is_relative_to(root) and (folder / file).is_file():
            text = (folder / file).read_text().strip()
            if text.isdigit():
                yield int(text)
