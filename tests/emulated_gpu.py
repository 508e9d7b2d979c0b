"""Runs the kernels of `Fused` on a CPU: the same CUDA, compiled by g++ or clang++.

All is as on a GPU but for the compiler and the launch; see emulated_gpu.h.
"""

import ctypes
import functools
import hashlib
import math
import pathlib
import subprocess
import tempfile

import jax
import numpy as np

from jaxrnn import native
from jaxrnn.files import cache_folder, replacing
from jaxrnn.fused import launch

HEADER = pathlib.Path(__file__).with_name("emulated_gpu.h")
FLAGS = ("-std=c++17", "-O0", "-w", "-fPIC", "-shared")
BACKWARDS = [False]  # the order of threads
ON_A_GPU = {
    name: getattr(launch, name) for name in ("launch", "unavailable", "PLATFORM")
}


def install():
    """From now on `Fused` runs in this process as if there were a GPU."""
    launch.launch, launch.unavailable = launch_on_cpu, lambda: None
    launch.PLATFORM = "cpu"


def launch_on_cpu(kernel, operands, *, time, rows):
    models = operands[0].shape[0]
    results = launch.results_of(kernel, models, time, rows)
    sizes = [math.prod(x.shape) * x.dtype.itemsize for x in results]
    written = jax.pure_callback(
        functools.partial(on_host, kernel, models, time, rows, sizes),
        [jax.ShapeDtypeStruct((size,), np.uint8) for size in sizes],
        *map(as_bytes, operands),
    )
    return [
        jax.lax.bitcast_convert_type(
            x.reshape(*like.shape, like.dtype.itemsize), like.dtype
        )
        for x, like in zip(written, results, strict=True)
    ]


def as_bytes(x):
    """A callback may run in a thread where JAX takes float64 for float32."""
    if x.dtype == np.bool_:
        return x.astype(np.uint8)
    return jax.lax.bitcast_convert_type(x, np.uint8)


def on_host(kernel, models, time, rows, sizes, *operands):
    """One launch; what the kernel does not write stays NaN."""
    arrays = [np.array([time, rows], np.int32)]
    arrays += [np.ascontiguousarray(x) for x in operands]
    written = [np.full(size, 0xFF, np.uint8) for size in sizes]
    pointers = [x.ctypes.data for x in (*arrays, *written)]
    library = compiled(kernel.name, kernel.source, len(pointers))
    library.run_blocks(
        models * rows,
        kernel.plan.threads,
        BACKWARDS[0],
        library.kernel_of,
        (ctypes.c_void_p * len(pointers))(*pointers),
    )
    return written


@functools.cache
def compiled(name, source, arguments):
    given = ", ".join(f"*(Any*)&given[{i}]" for i in range(arguments))
    text = f"""#include "{HEADER.name}"
{source}
struct Any {{ void* at; template <class T> operator T*() const {{ return (T*)at; }} }};
extern "C" void kernel_of(void** given) {{ {name}({given}); }}
"""
    digest = hashlib.sha256((HEADER.read_text() + text).encode()).hexdigest()
    path = cache_folder() / "emulated" / f"{digest}.so"
    if not path.exists():
        with replacing(path) as made, tempfile.TemporaryDirectory() as folder:
            unit = pathlib.Path(folder) / "kernel.cc"
            unit.write_text(text)
            command = [native.compiler_found(), *FLAGS, f"-I{HEADER.parent}"]
            subprocess.run([*command, "-o", str(made), str(unit)], check=True)
    return ctypes.CDLL(str(path))
