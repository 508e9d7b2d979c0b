"""On which machine was a benchmark run, when, and what can it do at best?"""

import datetime
import functools
import importlib.metadata
import os
import pathlib
import platform

import jax
import jax.numpy as jnp
from timing import compiled, interleaved

CPUINFO = pathlib.Path("/proc/cpuinfo")


def computer() -> dict:
    """The day, the processor, the cores that this process may use, the system."""
    lines = CPUINFO.read_text().splitlines() if CPUINFO.exists() else []
    models = [line.split(":")[1].strip() for line in lines if "model name" in line]
    may_use = getattr(os, "sched_getaffinity", None)  # Linux
    return {
        "measured": datetime.date.today().isoformat(),
        "cpu": models[0] if models else platform.processor(),
        "cores": len(may_use(0)) if may_use else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def facts() -> dict:
    """The computer, JAX's first device, and the versions of JAX and Flax.

    JAX takes the device for this process; who leaves it to others asks `computer`.
    """
    return computer() | {
        "device": jax.devices()[0].device_kind,
        "platform": jax.default_backend(),
        "jax": jax.__version__,
        "flax": importlib.metadata.version("flax"),
    }


def ceilings(size: int = 2048, repeats: int = 5) -> dict[str, float]:
    """The best of some large matmuls, and of some copies of a large array."""
    square, row = jnp.ones((size, size)), jnp.ones(16 * size * size)
    _, matmul = compiled(jnp.matmul, square, square)
    _, copy = compiled(lambda x: x + 1, row)
    runs = {
        "matmul": functools.partial(matmul, square, square),
        "copy": functools.partial(copy, row),
    }
    best_s = {name: min(ms) / 1e3 for name, ms in interleaved(runs, repeats).items()}
    return {
        "matmul_gflops": round(2 * size**3 / best_s["matmul"] / 1e9, 1),
        "bandwidth_gb_s": round(2 * row.nbytes / best_s["copy"] / 1e9, 1),
    }
