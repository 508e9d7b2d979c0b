"""How does a kernel run inside of a JAX program? NVRTC compiles it, XLA launches it.

NVRTC is NVIDIA's compiler as a library, which `jax[cuda13]` brings. Its PTX goes into
the program as a custom call that XLA itself knows: nothing else has to be installed.
"""

import contextlib
import ctypes
import functools
import hashlib
import importlib.util
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.custom_batching import custom_vmap

from jaxrnn.cells.ops import as_varying
from jaxrnn.files import cache_folder, replacing
from jaxrnn.fused.emit import Kernel
from jaxrnn.fused.plan import SHARED_BYTES

LIBRARIES = ("libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so")
TARGET = "__gpu$xla.gpu.ptx"  # of XLA
PLATFORM = "cuda"
# Kernels use no instruction that is newer. A driver refuses PTX of a newer version than
# its own, and NVRTC may well be newer than the driver; a newer GPU takes older PTX.
NEWEST_ARCHITECTURE = 90
PTX_VERSION = "7.8"


def enabled() -> bool:
    """Whether JAXRNN_FUSED=0 does not forbid kernels where nobody asks for them."""
    return os.environ.get("JAXRNN_FUSED", "1") != "0"


def unavailable() -> str | None:
    """Why no kernel can run here, as the end of a sentence; None where they can."""
    if jax.default_backend() != "gpu" or not architecture():
        return f"JAX runs on {jax.devices()[0].device_kind!r}, which is no NVIDIA GPU"
    if nvrtc() is None:
        return f"NVRTC ({LIBRARIES[0]}) is missing; pip install 'jax[cuda13]' brings it"
    return None


def run(
    kernel: Kernel, arrays: Mapping[str, Array], *, time: int, rows: int
) -> dict[str, Array]:
    """The arrays that a kernel writes, by name.

    Under `jax.vmap` every element is a model with blocks of its own, in one launch.

    Args:
      kernel: from `emit.py`.
      arrays: at least those that it takes, with all axes of the batch merged to one.
      time: the number of steps.
      rows: of the batch.
    """

    @custom_vmap
    def of_models(*operands: Array) -> list[Array]:
        if operands[0].shape[0] == 0:  # which no grid of blocks can be
            results = results_of(kernel, 0, time, rows)
            return [jnp.zeros(x.shape, x.dtype) for x in results]
        return launch(kernel, operands, time=time, rows=rows)

    @of_models.def_vmap
    def of_more(size: int, batched: Sequence[bool], *operands: Array) -> Any:
        inner = operands[0].shape[1 if batched[0] else 0]
        merged = []
        for x, has_axis in zip(operands, batched, strict=True):
            x = x if has_axis else jnp.broadcast_to(x, (size, *x.shape))
            merged.append(x.reshape(size * x.shape[1], *x.shape[2:]))
        found = of_models(*merged)
        found = [x.reshape(size, inner, *x.shape[1:]) for x in found]
        return found, [True] * len(found)

    operands = [arrays[name][None] for name in kernel.inputs]
    found = as_varying(of_models(*operands), like=operands)
    return {output.name: x[0] for output, x in zip(kernel.outputs, found, strict=True)}


def launch(
    kernel: Kernel, operands: Sequence[Array], *, time: int, rows: int
) -> list[Array]:
    """One launch; every operand and every result has an axis of models first."""
    models = operands[0].shape[0]
    call = jax.ffi.ffi_call(
        TARGET,
        results_of(kernel, models, time, rows),
        custom_call_api_version=4,
    )
    sizes = jnp.array([time, rows], jnp.int32)
    found = call(
        sizes,
        *operands,
        name=kernel.name,
        kernel_type="ptx",
        kernel_data=ptx_of(kernel.source, architecture()),
        grid_x=np.int32(models * rows),
        grid_y=np.int32(1),
        grid_z=np.int32(1),
        block_x=np.int32(kernel.plan.threads),
        block_y=np.int32(1),
        block_z=np.int32(1),
        shared_mem_bytes=np.int32(kernel.plan.shared_bytes),
    )
    return list(found)


def results_of(
    kernel: Kernel, models: int, time: int, rows: int
) -> list[jax.ShapeDtypeStruct]:
    """The shapes and dtypes of what a kernel writes."""
    found = []
    for _, at_steps, leaf in kernel.outputs:
        leading = (models, time, rows) if at_steps else (models, rows)
        found.append(jax.ShapeDtypeStruct((*leading, *leaf.shape), leaf.dtype))
    return found


def architecture() -> str | None:
    """That of the first device, such as "90" for an H100; None where it has none."""
    capability = str(getattr(jax.devices()[0], "compute_capability", ""))
    number = capability.replace(".", "")
    return number if number.isdigit() else None  # AMD's are such as "gfx90a"


def shared_bytes() -> int:
    """Memory that a block may share on the first device: 64 to 227 KB, by GPU."""
    name = "shared_memory_per_block_optin"
    return getattr(jax.devices()[0], name, SHARED_BYTES)


@functools.cache
def nvrtc() -> ctypes.CDLL | None:
    """The library, from the packages that `jax[cuda13]` brings or from the system."""
    nvidia = importlib.util.find_spec("nvidia")
    folders = nvidia.submodule_search_locations if nvidia else None
    for folder in map(pathlib.Path, folders or ()):
        for name in LIBRARIES:
            for path in folder.glob(f"*/lib/{name}"):
                for part in path.parent.glob("libnvrtc-builtins.so.*"):
                    ctypes.CDLL(str(part))  # which the library does not find itself
                return ctypes.CDLL(str(path))
    for name in LIBRARIES:
        with contextlib.suppress(OSError):  # it is not there
            return ctypes.CDLL(name)
    return None


@functools.lru_cache(maxsize=1024)
def ptx_of(source: str, architecture: str) -> str:
    """A kernel compiled; kept in `cache_folder()` by what it was compiled from.

    Raises:
      RuntimeError: NVRTC refuses the source; with its words.
    """
    key = hashlib.sha256(f"{architecture}\n{source}".encode()).hexdigest()
    path = cache_folder() / "fused" / f"{key}.ptx"
    if not path.exists():
        ptx = _compiled(source, architecture)
        with replacing(path) as unfinished:
            unfinished.write_text(ptx)
    return path.read_text()


def older(ptx: str) -> str:
    """PTX as of `PTX_VERSION`: hints that are newer go, of which bytes are read."""
    ptx = re.sub(r'(?m)^\s*\.pragma "used_bytes_mask.*\n', "", ptx)
    return re.sub(r"(?m)^\.version .*$", f".version {PTX_VERSION}", ptx)


def _compiled(source: str, architecture: str) -> str:
    library = nvrtc()
    assert library is not None
    program = ctypes.c_void_p()

    def check(code: int) -> None:
        if code:
            log = read("ProgramLog") if program else ""
            raise RuntimeError(f"NVRTC could not compile a kernel ({code}):\n{log}")

    def read(what: str) -> str:
        size = ctypes.c_size_t()
        getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
        text = ctypes.create_string_buffer(size.value)
        getattr(library, f"nvrtcGet{what}")(program, text)
        return text.value.decode()

    create = library.nvrtcCreateProgram
    check(create(ctypes.byref(program), source.encode(), b"fused.cu", 0, None, None))
    virtual = min(int(architecture), NEWEST_ARCHITECTURE)
    options = (f"--gpu-architecture=compute_{virtual}".encode(), b"--std=c++17")
    given = (ctypes.c_char_p * len(options))(*options)
    check(library.nvrtcCompileProgram(program, len(options), given))
    ptx = read("PTX")
    library.nvrtcDestroyProgram(ctypes.byref(program))
    return older(ptx)
