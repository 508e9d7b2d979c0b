"""Does ONNX Runtime give the numbers of a layer, whole sequences and step by step?

Command    python experiments/onnx_runtime.py   (after `pip install jaxrnn[onnx]`)
Time       20 s, most of it jax2onnx' start
Expect     differences of 1e-7, for SimpleRNN, GRU, LSTM and a classifier of ids

jax2onnx translates what JAX traces, so a layer needs nothing for it. It does so by
putting its own functions in the place of JAX' while it traces: what was compiled before
must be forgotten first, and what was traced then must be forgotten afterwards, which
`convert` sees to. Sizes may be open: names stand for them. Where all sizes are fixed,
the default solver may be one that runs outside of JAX (`Native`, `Fused`), which
jax2onnx cannot read; then the layer is converted with `solver=jaxrnn.Scan()`.

Writes a .onnx file for each, and onnx_runtime.jsonl.
"""

import functools
import logging
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import report
import tyro

import jaxrnn
from jaxrnn import files

OUT = pathlib.Path("runs")


def convert(run: Callable, shapes, path: pathlib.Path) -> None:
    """Writes a function of arrays as an ONNX file.

    Args:
      run: takes and returns arrays, no trees.
      shapes: of its arguments, `jax.ShapeDtypeStruct`, open sizes by
        `jax.export.symbolic_shape`.
      path: of the file.

    Raises:
      ImportError: without jax2onnx, which `pip install jaxrnn[onnx]` brings.
    """
    jax2onnx = files.optional("jax2onnx", "onnx")
    logging.getLogger("jax2onnx").setLevel(logging.ERROR)  # what it has no part for
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)
    jax.clear_caches()
    try:
        program = jax2onnx.to_onnx(run, shapes)
    finally:
        jax.clear_caches()
    with files.replacing(path) as unfinished:
        unfinished.write_bytes(program.SerializeToString())


def load(path: pathlib.Path, *, threads: int = 0) -> Callable:
    """The function in an ONNX file, from NumPy arrays to a list of them.

    Args:
      path: of the file.
      threads: to run on; 0 leaves it to ONNX Runtime.

    Raises:
      ImportError: without onnxruntime, which `pip install jaxrnn[onnx]` brings.
    """
    onnxruntime = files.optional("onnxruntime", "onnx")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options)
    names = [given.name for given in session.get_inputs()]
    return lambda *given: session.run(None, dict(zip(names, given, strict=True)))


def programs(features: int, in_features: int):
    """Names, functions, shapes and arguments of what is converted."""
    rng = np.random.default_rng(0)
    rows, time = jax.export.symbolic_shape("rows, time")
    inputs = rng.standard_normal((5, 7, in_features)).astype(np.float32)
    mask = rng.random((5, 7)) > 0.3

    def shape(dtype, *sizes):
        return jax.ShapeDtypeStruct(sizes, dtype)

    for kind in (jaxrnn.SimpleRNN, jaxrnn.GRU, jaxrnn.LSTM):
        layer = kind(features)
        variables = layer.init(jax.random.key(0), inputs)
        carry = layer.apply(variables, (5,), method="initial_carry")
        leaves, structure = jax.tree.flatten(carry)

        def whole(inputs, mask, layer=layer, variables=variables):
            return layer.apply(variables, inputs, mask=mask)

        def step(inputs, *carry, layer=layer, variables=variables, like=structure):
            carry = jax.tree.unflatten(like, carry)
            carry, output = layer.apply(variables, carry, inputs, method="step")
            return output, *jax.tree.leaves(carry)

        of_inputs = shape(jnp.float32, rows, time, in_features)
        of_mask = shape(jnp.bool_, rows, time)
        yield kind.__name__, whole, [of_inputs, of_mask], [inputs, mask]
        of_step = shape(jnp.float32, rows, in_features)
        of_carry = [shape(jnp.float32, rows, features) for _ in leaves]
        before = [rng.standard_normal(x.shape).astype(np.float32) for x in leaves]
        given = [inputs[:, 0], *before]
        yield f"{kind.__name__}, a step", step, [of_step, *of_carry], given

    model = jaxrnn.TextClassifier(9, 4, jaxrnn.GRU(features), mask_zero=True)
    ids = rng.integers(0, 9, (5, 7)).astype(np.int32)
    variables = model.init(jax.random.key(0), ids)
    run = functools.partial(model.apply, variables)
    yield "TextClassifier", run, [shape(jnp.int32, rows, time)], [ids]


def main(
    *, features: int = 32, in_features: int = 3, out: pathlib.Path = OUT
) -> list[dict]:
    """Converts, runs and compares; writes the programs and onnx_runtime.jsonl.

    Args:
      features: of each layer.
      in_features: of each step.
      out: where results go.
    """
    records = []
    for name, run, shapes, given in programs(features, in_features):
        path = out / f"{name.replace(', a ', '_')}.onnx"
        convert(run, shapes, path)
        found = load(path)(*given)
        wanted = jax.tree.leaves(run(*map(jnp.asarray, given)))
        differences = [abs(f - w).max() for f, w in zip(found, wanted, strict=True)]
        records.append(
            {
                "experiment": "onnx_runtime",
                "program": name,
                "kib": round(path.stat().st_size / 1024, 1),
                "largest_difference": float(max(differences)),
            }
        )
    files.write_json_lines(out / "onnx_runtime.jsonl", records)
    print(report.markdown_table(records))
    return records


if __name__ == "__main__":
    tyro.cli(main)
