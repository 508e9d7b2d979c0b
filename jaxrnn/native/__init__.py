"""How does native.cc become loops that XLA can call? A compiler makes them, once.

    python -m jaxrnn.native

compiles them for this processor into the user's cache directory; it takes some ten
seconds and needs g++ or clang++. From then on they are the default solver on a CPU, see
`jaxrnn.default_solver`; the environment variable JAXRNN_NATIVE=0 says otherwise. The
same command looks whether they are whole, and makes them again where they are not.
"""

import ctypes
import functools
import hashlib
import os
import pathlib
import platform
import shutil
import warnings

import jax
import jaxlib.version

from jaxrnn.files import cache_folder
from jaxrnn.native import store
from jaxrnn.native.compiler import compiled

SOURCE = pathlib.Path(__file__).with_name("native.cc")
TARGETS = ("jaxrnn_forward", "jaxrnn_backward")
FLAGS = (
    *("-std=c++17", "-O3", "-march=native", "-ffp-contract=fast"),
    *("-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared"),
)
WITHOUT = "all works without, by jaxrnn.HoistedScan and jaxrnn.Scan"


def enabled() -> bool:
    """Whether the loops have been compiled, and JAXRNN_NATIVE=0 does not forbid them.

    Loops that are there but must not be run (damaged, or not the user's own) are left
    alone, with one warning that says why.

    Example:
      >>> isinstance(enabled(), bool)
      True
    """
    if os.environ.get("JAXRNN_NATIVE", "1") == "0":
        return False
    try:
        path = library()
        made = os.path.lexists(path)
    except RuntimeError:  # no cache folder: then nobody has made them
        return False
    fault = store.fault(path) if made else None
    if fault is not None:
        _warn(
            f"jaxrnn's native loops are not used: {fault}; `python -m jaxrnn.native` "
            f"makes them again, and {WITHOUT}."
        )
    return made and fault is None


@functools.cache
def _warn(message: str) -> None:
    """Once in a process."""
    warnings.warn(message, stacklevel=3)


def library() -> pathlib.Path:
    """Where the compiled loops lie: another file for every source, jaxlib, processor.

    They lie in `jaxrnn.files.cache_folder()`.

    Raises:
      RuntimeError: there is no cache folder.
    """
    return cache_folder() / "native" / f"native-{_digest()}.so"


@functools.cache
def _digest() -> str:
    version = jaxlib.version.__version__
    parts = (SOURCE.read_text(), version, " ".join(_flags()), _processor())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def compiler_found() -> str | None:
    """The C++ compiler that `build` takes; None where there is none."""
    return os.environ.get("CXX") or next(
        filter(shutil.which, ("g++", "clang++", "c++")), None
    )


def build() -> pathlib.Path:
    """Compiles the loops, unless that has been done and they are whole.

    Returns:
      The library.

    Raises:
      RuntimeError: there is no compiler, or it failed; with what it said. There is no
        folder of the user's own to keep them in.
    """
    path = library()
    if store.fault(path) is None:
        return path
    compiler = compiler_found()
    if compiler is None:
        raise RuntimeError(
            "the native solver needs a C++ compiler, found neither g++ nor clang++; "
            f"install one or name it in the variable CXX, or leave it: {WITHOUT}."
        )
    arguments = (*_flags(), "-isystem", jax.ffi.include_dir(), str(SOURCE))
    store.keep(path, lambda made: compiled(compiler, arguments, made, TARGETS))
    return path


@functools.cache
def load() -> None:
    """Makes the loops known to XLA, compiling them first where need be.

    Raises:
      RuntimeError: as `build`; the system refuses to load what was built.
    """
    path = build()
    try:
        loops = ctypes.CDLL(str(path))
        functions = [getattr(loops, target) for target in TARGETS]
    except (OSError, AttributeError) as error:
        raise RuntimeError(
            f"the native loops in {path} cannot be loaded ({error}); delete that file "
            f"or leave it: {WITHOUT}."
        ) from error
    for target, function in zip(TARGETS, functions, strict=True):
        capsule = jax.ffi.pycapsule(function)
        jax.ffi.register_ffi_target(target, capsule, platform="cpu")


def _flags() -> tuple[str, ...]:
    wide = platform.machine().lower() in ("x86_64", "amd64")
    return (*FLAGS, "-mprefer-vector-width=512") if wide else FLAGS


def _processor() -> str:
    """What -march=native looks at: a home may be shared by unlike machines."""
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    features = (line for line in lines if line.startswith(("flags", "Features")))
    return platform.machine() + next(features, platform.processor())
