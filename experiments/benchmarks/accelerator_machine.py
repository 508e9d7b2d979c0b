"""Which accelerator, which versions, and what can the machine do at best?

A part of `accelerator.py`, under the name machine.
"""

import importlib.metadata
import platform
import shutil
import subprocess

import jax
import jax.numpy as jnp
import machine
from accelerator_part import part_of_command_line
from timing import bursts, compiled, significant

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "jax-cuda13-plugin")
CUDNN = ("nvidia-cudnn-cu13", "nvidia-cudnn-cu12")
QUERY = {
    "card": "name",
    "driver": "driver_version",
    "memory": "memory.total",
    "sm_clock": "clocks.sm",
    "max_sm_clock": "clocks.max.sm",
    "capability": "compute_cap",
    "power_limit": "power.limit",
}


def card() -> dict[str, str]:
    """What nvidia-smi says of the first card; nothing where there is none."""
    if shutil.which("nvidia-smi") is None:
        return {}
    command = ["nvidia-smi", f"--query-gpu={','.join(QUERY.values())}"]
    done = subprocess.run(
        [*command, "--format=csv,noheader"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        return {}
    return dict(zip(QUERY, map(str.strip, lines[0].split(",")), strict=False))


def versions() -> dict[str, str]:
    """Of Python and the packages that matter; those that are installed."""
    installed = {
        d.metadata["Name"]: d.version for d in importlib.metadata.distributions()
    }
    found = {p: installed[p] for p in (*PACKAGES, *CUDNN) if p in installed}
    return {"python": platform.python_version()} | found


def launch_us() -> float:
    """Microseconds from one launch of the smallest program to the next."""
    x = jnp.ones(8)
    _, program = compiled(lambda x: x + 1, x)
    return significant(1e3 * min(bursts({0: lambda: program(x)}, repeats=5)[0]))


def main() -> None:
    part = part_of_command_line(__doc__)
    on_cpu = jax.default_backend() == "cpu"
    size = 256 if part.quick else 2048 if on_cpu else 4096
    part.write(
        **card(),
        **machine.computer(),
        device=jax.devices()[0].device_kind,
        platform=jax.default_backend(),
        versions=versions(),
    )
    part.write(**machine.ceilings(size, repeats=10), launch_us=launch_us())


if __name__ == "__main__":
    main()
