"""Compiles JAX programs for an H100 where there is no GPU; what do they launch?

XLA for CUDA compiles without a driver and without CUDA's libraries. `make gpu-compiler`
puts it beside the environment, and not into it: a Python that finds it looks for a GPU.
So `programs` compiles in a Python of its own, which alone has it on its path.
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from typing import NamedTuple

import jax
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

# Another environment's may be named, if its JAX is the very same.
FOLDER = pathlib.Path(
    os.environ.get("GPU_COMPILER_DIR", f"{sys.prefix}/gpu-compiler")
).resolve()
AVAILABLE = (FOLDER / "jax_plugins").is_dir()
MISSING = f"{FOLDER} is not there; `make gpu-compiler` makes it"
HERE = pathlib.Path(__file__).parent

# What XLA asks a device for. Without the driver's version no CUDA graphs are made.
H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 }
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 84978434048
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  driver_version: "13.0.0"
  runtime_version: "13.0.0"
  compile_time_toolkit_version: "13.0.0"
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
runtime_version { major: 13 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


class Launches(NamedTuple):
    """What a stretch of a program sends to the GPU: about 2 us each, or more."""

    kernels: int = 0
    copies: int = 0  # and fills
    library_calls: int = 0  # cuBLAS, cuDNN, custom calls

    @property
    def total(self) -> int:
        return sum(self)


class Program(NamedTuple):
    """A compiled program.

    Attributes:
      top: what it launches outside of all loops.
      loops: what each loop launches a step, in the order they begin; an inner loop
        counts by itself, after the one around it. Conditions do not count: XLA leaves
        them out where it knows the number of steps, as it does for `lax.scan`.
      ptx_calls: places that launch a kernel of ours (`xla.gpu.ptx`).
    """

    top: Launches
    loops: list[Launches]
    ptx_calls: int


LAUNCHES = {
    "CustomKernel": Launches(kernels=1),
    "Kernel": Launches(kernels=1),
    "Copy": Launches(copies=1),
    "Memzero": Launches(copies=1),
    "Memset32BitValue": Launches(copies=1),
    "Gemm": Launches(library_calls=1),
    "CublasLtMatmul": Launches(library_calls=1),
    "CustomCall": Launches(library_calls=1),
    "CuDnn": Launches(library_calls=1),
    # Around what is launched: its own lines follow.
    "While": Launches(),
    "DynamicSliceFusion": Launches(),
    "AsyncStart": Launches(),
    "AsyncDone": Launches(),
}


def parse(thunks: str) -> tuple[Launches, list[Launches]]:
    """Reads XLA's list of what a program does: top level, and each loop's body.

    A line is `007: kCopy ...`; what a loop repeats is indented more than `body:`, and
    so is what its `condition:` does.
    """
    counts, ignored = [Launches()], -1
    # Which count the lines of at least this indentation belong to, innermost last.
    open_parts, heading = [(0, 0)], None
    for line in thunks.splitlines():
        if not line.strip():
            continue
        if line.strip() == "body:":
            counts.append(Launches())
            heading = len(counts) - 1
            continue
        if line.strip() == "condition:":
            heading = ignored
            continue
        found = re.match(r"( *)\d+: k(\w+)", line)
        if not found or found[2] not in LAUNCHES:
            raise ValueError(f"XLA does what is not in LAUNCHES: {line!r}")
        indent = len(found[1])
        if heading is not None:  # the condition's lines are as deep as the body's
            open_parts = [part for part in open_parts if part[0] < indent]
            open_parts.append((indent, heading))
            heading = None
        open_parts = [part for part in open_parts if part[0] <= indent]
        part = open_parts[-1][1]
        if part != ignored:
            sums = map(sum, zip(counts[part], LAUNCHES[found[2]], strict=True))
            counts[part] = Launches(*sums)
    return counts[0], counts[1:]


def compile_for_gpu(function, *arguments) -> Program:
    """Compiles `function` for an H100, in a Python that has XLA for CUDA on its path.

    Args:
      function: of arrays; may be jitted.
      *arguments: arrays, or `jax.ShapeDtypeStruct` in their place.
    """
    topology = topologies.get_topology_desc(
        "h100", "cuda", target_config=H100, topology="1x1x1"
    )
    sharding = SingleDeviceSharding(topology.devices[0])
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), arguments
    )
    with tempfile.TemporaryDirectory() as folder:
        options = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
        compiled = jax.jit(function).lower(*shapes).compile(compiler_options=options)
        (thunks,) = pathlib.Path(folder).glob("*.thunk_sequence.txt")
        top, loops = parse(thunks.read_text())
    calls = compiled.as_text().count('custom_call_target="__gpu$xla.gpu.ptx"')
    return Program(top, loops, calls)


def programs(*names: str) -> dict[str, Program]:
    """Compiles programs of gpu_programs.py by their names, in a Python of its own.

    One Python for many: to start it takes as long as to compile a program.
    """
    done = run_python(__file__, *names)
    if done.returncode:
        raise RuntimeError(f"{names} do not compile for a GPU:\n{done.stderr}")
    return {
        name: Program(Launches(*top), [Launches(*loop) for loop in loops], ptx_calls)
        for name, (top, loops, ptx_calls) in json.loads(
            done.stdout.splitlines()[-1]
        ).items()
    }


# By NVRTC, every `name.cu` of a folder to `name.ptx`.
TO_PTX = """
import pathlib, sys
from jaxrnn.fused import launch
for path in pathlib.Path(sys.argv[1]).glob("*.cu"):
    path.with_suffix(".ptx").write_text(launch.ptx_of(path.read_text(), "90"))
"""


def assembled(sources: dict[str, str], folder: pathlib.Path) -> dict[str, int]:
    """Compiles kernels down to the machine code of an H100; the bytes each spills."""
    for name, source in sources.items():
        (folder / f"{name}.cu").write_text(source)
    done = run_python("-c", TO_PTX, str(folder))
    assert done.returncode == 0, done.stderr
    found = {}
    for name in sources:
        files = ("-o", os.devnull, folder / f"{name}.ptx")
        done = subprocess.run(
            [FOLDER / "nvidia/cu13/bin/ptxas", "-v", "-arch=sm_90", *files],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        spills = re.findall(r"(\d+) bytes spill (?:stores|loads)", done.stderr)
        found[name] = sum(map(int, spills))
    return found


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a Python that finds XLA for CUDA, and NVRTC."""
    paths = map(str, (FOLDER, HERE, HERE.parent / "experiments", *sys.path))
    inherited = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    environment = {
        "PYTHONPATH": os.pathsep.join(paths),
        "JAX_PLATFORMS": "cpu",  # what runs, runs here
        "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",  # the libraries are not there
        "GPU_COMPILER_DIR": str(FOLDER),
    }
    return subprocess.run(
        [sys.executable, *arguments],
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=600,  # against hanging
        check=False,
    )


if __name__ == "__main__":
    from gpu_programs import PROGRAMS

    print(
        json.dumps({name: compile_for_gpu(*PROGRAMS[name]()) for name in sys.argv[1:]})
    )
