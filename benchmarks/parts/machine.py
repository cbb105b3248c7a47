"""The machine that a measurement was made on, and the memory it took."""

from __future__ import annotations

import json
import os
import platform
import threading
import time
from pathlib import Path
from typing import Any

import jax

from pie_jax.prune.setup import package_versions

_PACKAGES = ("pie-jax", "jaxlib", "jax-cuda13-plugin", "jax-cuda12-plugin", "flax", "numpy")


def write_json(path: Path, figures: dict[str, Any]) -> None:
    """Write figures whole or not at all: whoever is stopped meanwhile leaves the last ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    part.replace(path)


def device_peak_mib() -> float | None:
    """Return the most memory that arrays took on the default device, None where it does not say."""
    stats = jax.local_devices()[0].memory_stats()
    return None if stats is None else stats["peak_bytes_in_use"] / 2**20


def describe() -> dict[str, Any]:
    """Return processor, cores, memory, devices and versions."""
    versions = package_versions(_PACKAGES)
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "devices": [f"{device.platform}: {device.device_kind}" for device in jax.devices()],
        "python": platform.python_version(),
        "jax": jax.__version__,
        "pie_jax": versions.pop("pie-jax"),
        "versions": {name: found for name, found in versions.items() if found is not None},
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


class PeakAnonymous:
    """Samples this process's anonymous memory every few milliseconds."""

    def __enter__(self) -> PeakAnonymous:
        self.bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.is_set():
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("RssAnon"):
                    self.bytes = max(self.bytes, int(line.split()[1]) * 1024)
            time.sleep(0.005)

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
