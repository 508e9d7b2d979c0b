"""How does native.cc become loops that XLA can call? A compiler makes them, once.

    python -m jaxrnn.native

compiles them for this processor into the user's cache directory; it takes some ten
seconds and needs g++ or clang++. From then on they are the default solver on a CPU, see
`jaxrnn.default_solver`; the environment variable JAXRNN_NATIVE=0 says otherwise.
"""

import ctypes
import functools
import hashlib
import os
import pathlib
import platform
import shutil
import subprocess

import jax
import jaxlib.version

from jaxrnn.files import cache_folder, replacing

SOURCE = pathlib.Path(__file__).with_name("native.cc")
TARGETS = ("jaxrnn_forward", "jaxrnn_backward")
FLAGS = (
    *("-std=c++17", "-O3", "-march=native", "-ffp-contract=fast"),
    *("-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared"),
)


def enabled() -> bool:
    """Whether the loops have been compiled, and JAXRNN_NATIVE=0 does not forbid them.

    Example:
      >>> isinstance(enabled(), bool)
      True
    """
    return os.environ.get("JAXRNN_NATIVE", "1") != "0" and library().exists()


@functools.cache
def library() -> pathlib.Path:
    """Where the compiled loops lie: another file for every source, jaxlib, processor.

    They lie in `jaxrnn.files.cache_folder()`.
    """
    version = jaxlib.version.__version__
    parts = (SOURCE.read_text(), version, " ".join(_flags()), _processor())
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    return cache_folder() / f"native-{digest}.so"


def compiler_found() -> str | None:
    """The C++ compiler that `build` takes; None where there is none."""
    return os.environ.get("CXX") or next(
        filter(shutil.which, ("g++", "clang++", "c++")), None
    )


def build() -> pathlib.Path:
    """Compiles the loops, unless that has been done.

    Returns:
      The library.

    Raises:
      RuntimeError: there is no compiler, or it failed; with what it said.
    """
    path = library()
    if path.exists():
        return path
    compiler = compiler_found()
    if compiler is None:
        raise RuntimeError(
            "the native solver needs a C++ compiler, found neither g++ nor clang++; "
            "install one or name it in the variable CXX, or leave it: all works "
            "without, by jaxrnn.HoistedScan and jaxrnn.Scan."
        )
    with replacing(path) as made:  # another process may be building it too
        command = [compiler, *_flags(), "-isystem", jax.ffi.include_dir(), str(SOURCE)]
        ran = subprocess.run(
            [*command, "-o", str(made)], capture_output=True, text=True, check=False
        )
        if ran.returncode:
            said = "\n".join(line[:200] for line in ran.stderr.splitlines()[:20])
            raise RuntimeError(f"{compiler} could not compile {SOURCE}:\n{said}")
    return path


@functools.cache
def load() -> None:
    """Makes the loops known to XLA, compiling them first where need be.

    Raises:
      RuntimeError: as `build`.
    """
    loops = ctypes.CDLL(str(build()))
    for target in TARGETS:
        capsule = jax.ffi.pycapsule(getattr(loops, target))
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
