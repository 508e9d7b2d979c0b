"""What do programs launch on a GPU? Counted where there is none, by `gpu_compiler`."""

import gpu_compiler
import pytest
from gpu_compiler import Launches


def compiles_for_gpu(test):
    """Marks a test, which is skipped where `make gpu-compiler` has not been run."""
    missing = not gpu_compiler.AVAILABLE
    skipped = pytest.mark.skipif(missing, reason=gpu_compiler.MISSING)(test)
    return pytest.mark.gpu_compiler(skipped)


# At most so many kernels and copies a step, forth and back, by JAX 0.10 to 0.12; the
# newest makes a copy or two more.
PER_STEP = {
    "simple_rnn": {
        "scan": [Launches(4, 4), Launches(5, 1)],
        "one chunk": [Launches(3, 3), Launches(3, 2)],
    },
    "gru": {
        "scan": [Launches(11, 2), Launches(9, 1)],
        "one chunk": [Launches(7, 1), Launches(5, 0)],
    },
    "lstm": {
        "scan": [Launches(13, 4), Launches(8, 1)],
        "one chunk": [Launches(7, 3), Launches(6, 0)],
    },
}


def assert_at_most(found, limits):
    for loop, limit in zip(found, limits, strict=True):
        assert loop.kernels <= limit.kernels, found
        assert loop.copies <= limit.copies, found
        assert loop.library_calls == 0, found  # the products are XLA's own kernels


@pytest.mark.slow
@compiles_for_gpu
@pytest.mark.parametrize("cell", PER_STEP)
def test_launches_of_a_gradient(cell):
    """An adjoint takes work out of the loops; chunks put another loop around one."""
    solvers = ("scan", "one chunk", "chunks of 64", "fused")
    names = [f"{cell}, {solver}" for solver in solvers]
    scan, one_chunk, chunks, fused = gpu_compiler.programs(*names).values()
    assert_at_most(scan.loops, PER_STEP[cell]["scan"])
    assert_at_most(one_chunk.loops, PER_STEP[cell]["one chunk"])
    assert sum(x.total for x in one_chunk.loops) < sum(x.total for x in scan.loops)

    # The same kernels a step, and around those of the way back what a chunk takes.
    forth, chunk, back = chunks.loops
    assert [forth.kernels, back.kernels] == [x.kernels for x in one_chunk.loops]
    assert chunk.total > back.total

    # One kernel forth and one back for all of the 100 steps. XLA checks the call of a
    # kernel, not the PTX: that is the driver's part.
    assert fused.ptx_calls == 2
    assert fused.loops == []


@pytest.mark.slow
@compiles_for_gpu
def test_launches_of_an_epoch():
    """Of tutorial 002, by a GPU's default: a loop over updates, two kernels of ours.

    What an update launches besides: batch, embedding, matmuls, loss, Adam.
    """
    fused, loops = gpu_compiler.programs("reviews", "reviews by a loop").values()
    assert fused.ptx_calls == 2
    (update,) = fused.loops
    assert update.total < 40, update
    around, *steps = loops.loops
    assert around.total < 40, around
    assert_at_most(steps, PER_STEP["simple_rnn"]["one chunk"])
    assert 100 * sum(step.total for step in steps) > 20 * update.total


@compiles_for_gpu
def test_an_error_of_the_compiler_is_told():
    """By the words of NVRTC, in a Python that finds it."""
    program = (
        "from jaxrnn.fused import launch;"
        "launch.ptx_of('__global__ void f(float* x) { *x = nobody; }', '90')"
    )
    done = gpu_compiler.run_python("-c", program)
    assert done.returncode == 1
    assert "NVRTC could not compile a kernel" in done.stderr
    assert 'identifier "nobody" is undefined' in done.stderr


# Two loops, the second within a loop: as XLA writes it, its conditions unindented.
THUNKS = """\
001: kCopy          [a copy | of a buffer] kCopy
002: kWhile
condition:
    003: kCustomKernel  compare
  body:
    004: kCustomKernel        dot grid: [32, 1, 1]
    005: kDynamicSliceFusion  params=1, results=1
        006: kCopy  kCopy
007: kWhile
condition:
    008: kCustomKernel  compare
  body:
    009: kCopy   kCopy
    010: kWhile
condition:
        011: kCustomKernel  compare
      body:
        012: kCustomKernel  tanh
        013: kGemm          cublas
    014: kCustomKernel        add
015: kMemzero       zeros
016: kCustomKernel  reduce
"""


def test_launches_are_counted_where_they_happen():
    top, loops = gpu_compiler.parse(THUNKS)
    assert top == Launches(kernels=1, copies=2)
    assert loops == [
        Launches(kernels=1, copies=1),
        Launches(kernels=1, copies=1),
        Launches(kernels=1, library_calls=1),
    ]


@pytest.mark.parametrize("line", ["020: kConditional", "  true_branch:", "021 ???"])
def test_what_cannot_be_counted_is_told(line):
    with pytest.raises(ValueError, match="not in LAUNCHES"):
        gpu_compiler.parse(THUNKS + line)
