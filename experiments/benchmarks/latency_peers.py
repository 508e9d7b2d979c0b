"""Who takes a step, and runs a short sequence, in `latency.py`? All with one's weights.

Every builder takes a `Problem` and returns `{way: call}`, calls that return the output
of a step, or the last output of the sequence, as something NumPy reads.
"""

import functools
import pathlib
import sys
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import records

import jaxrnn
from jaxrnn import files, interchange, native

sys.path.append(str(records.RESULTS.parent))
import onnx_runtime

Ways = dict[str, Callable[[], Any]]


class Problem(NamedTuple):
    """One layer at batch 1.

    Attributes:
      layer: a Linen layer of jaxrnn; its cell is `cell`.
      cell: "lstm" or "gru".
      params: of the layer.
      inputs: (1, time, in_features).
    """

    layer: Any
    cell: str
    params: dict[str, Any]
    inputs: jax.Array

    @property
    def carry(self) -> Any:
        """Before the first step; zeros."""
        return getattr(jaxrnn, self.cell).initial_carry(self.params, (1,))


def of_jaxrnn(problem: Problem) -> tuple[Ways, Ways]:
    """By `rnn_step` and by the layer, at once and in the caller's `jax.jit`."""
    layer, name, params, inputs = problem
    variables, carry, now = {"params": params}, problem.carry, inputs[:, 0]
    rnn_step = functools.partial(jaxrnn.rnn_step, getattr(jaxrnn, name))
    apply_step = functools.partial(layer.apply, method="step")
    jitted_step, jitted_apply = jax.jit(rnn_step), jax.jit(apply_step)
    steps = {
        "jaxrnn, rnn_step": lambda: rnn_step(params, carry, now)[1],
        "jaxrnn, layer's step": lambda: apply_step(variables, carry, now)[1],
        "jaxrnn, rnn_step in jit": lambda: jitted_step(params, carry, now)[1],
        "jaxrnn, layer's step in jit": lambda: jitted_apply(variables, carry, now)[1],
    }
    whole = {
        "jaxrnn, in jit": functools.partial(jax.jit(layer.apply), variables, inputs)
    }
    if native.enabled():
        loops = jax.jit(layer.clone(solver=jaxrnn.Native()).apply)
        whole["jaxrnn, native, in jit"] = functools.partial(loops, variables, inputs)
    return steps, whole


def of_flax(problem: Problem) -> tuple[Ways, Ways]:
    """Linen's cells and its RNN, in jit."""
    _, name, params, inputs = problem
    cell = {"lstm": nn.LSTMCell, "gru": nn.GRUCell}[name](problem.layer.features)
    theirs = jax.tree.map(jnp.asarray, interchange.to_linen(params))
    carry = cell.initialize_carry(jax.random.key(0), inputs[:, 0].shape)
    step, run = jax.jit(cell.apply), jax.jit(nn.RNN(cell).apply)
    now, of_step, of_run = (
        inputs[:, 0],
        {"params": theirs},
        {"params": {"cell": theirs}},
    )
    return (
        {"flax.linen, in jit": lambda: step(of_step, carry, now)[1]},
        {"flax.linen, in jit": lambda: run(of_run, inputs)[:, -1]},
    )


def of_torch(problem: Problem) -> tuple[Ways, Ways]:
    """PyTorch's cells and layers on one thread, in inference mode."""
    import torch

    torch.set_num_threads(1)
    _, name, params, inputs = problem
    sizes = inputs.shape[-1], problem.layer.features
    layer = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[name](*sizes, batch_first=True)
    cell = {"lstm": torch.nn.LSTMCell, "gru": torch.nn.GRUCell}[name](*sizes)
    state = {
        key: torch.tensor(value) for key, value in interchange.to_torch(params).items()
    }
    layer.load_state_dict(state)
    cell.load_state_dict({key.removesuffix("_l0"): x for key, x in state.items()})
    given = torch.tensor(np.asarray(inputs))
    now, zeros = given[:, 0], torch.zeros(1, sizes[1])
    carry = (zeros, zeros) if name == "lstm" else zeros

    @torch.inference_mode()
    def step():
        after = cell(now, carry)
        return after[0] if name == "lstm" else after

    @torch.inference_mode()
    def run():
        return layer(given)[0][:, -1]

    return {"pytorch": step}, {"pytorch": run}


def of_onnx(problem: Problem) -> tuple[Ways, Ways]:
    """ONNX Runtime on one thread: what jax2onnx makes of ours, and ONNX' operator."""
    _, _, params, inputs = problem
    layer = problem.layer.clone(solver=jaxrnn.Scan())  # which jax2onnx can read
    leaves, structure = jax.tree.flatten(problem.carry)
    variables = {"params": params}

    def step(inputs, *carry):
        carry = jax.tree.unflatten(structure, carry)
        carry, output = layer.apply(variables, carry, inputs, method="step")
        return output, *jax.tree.leaves(carry)

    def run(inputs):
        return layer.apply(variables, inputs)

    def load(path):
        call = onnx_runtime.load(path, threads=1)
        return lambda *given: lambda: call(*given)[0]

    given, zeros = np.asarray(inputs), [np.asarray(leaf) for leaf in leaves]
    now = given[:, 0]
    with tempfile.TemporaryDirectory() as folder:
        here = pathlib.Path(folder)
        onnx_runtime.convert(run, [inputs], here / "run")
        onnx_runtime.convert(step, [inputs[:, 0], *leaves], here / "step")
        with files.replacing(here / "operator") as unfinished:
            unfinished.write_bytes(operator(problem))
        converted_run, converted_step = load(here / "run"), load(here / "step")
        by_operator = load(here / "operator")
    of_carry = [leaf[None] for leaf in zeros]
    return (
        {
            "onnxruntime, jax2onnx": converted_step(now, *zeros),
            "onnxruntime, operator": by_operator(now[None], *of_carry),
        },
        {
            "onnxruntime, jax2onnx": converted_run(given),
            "onnxruntime, operator": by_operator(
                given.swapaxes(0, 1).copy(), *of_carry
            ),
        },
    )


def operator(problem: Problem) -> bytes:
    """A graph of nothing but ONNX' LSTM or GRU, time axis first, with a carry.

    ONNX has the gates of an LSTM in the order i, o, f, g, those of a GRU as here; its
    two biases stand behind one another, and a GRU that resets after the matmul has
    `linear_before_reset`.
    """
    from onnx import TensorProto, helper, numpy_helper

    def gates(array):
        if problem.cell == "gru":
            return np.asarray(array)
        i, f, g, o = np.split(np.asarray(array), 4, axis=-1)
        return np.concatenate([i, o, f, g], axis=-1)

    params, features = problem.params, problem.layer.features
    bias = gates(params["bias"])
    inside = params.get("recurrent_bias", np.zeros_like(bias))
    weights = {
        "W": gates(params["kernel"]).T[None],
        "R": gates(params["recurrent_kernel"]).T[None],
        "B": np.concatenate([bias, inside])[None],
    }
    carry = ["h", "c"] if problem.cell == "lstm" else ["h"]
    reset = {"linear_before_reset": 1} if problem.cell == "gru" else {}
    node = helper.make_node(
        problem.cell.upper(),
        ["X", *weights, "", *carry],
        ["", *(f"{name}_after" for name in carry)],
        hidden_size=features,
        **reset,
    )

    def value(name, *shape):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        [node],
        problem.cell,
        [
            value("X", "time", "rows", problem.inputs.shape[-1]),
            *(value(name, 1, "rows", features) for name in carry),
        ],
        [value(f"{name}_after", 1, "rows", features) for name in carry],
        [
            numpy_helper.from_array(array.copy(), name)
            for name, array in weights.items()
        ],
    )
    opset = helper.make_opsetid("", 17)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=9)
    return model.SerializeToString()


PEERS = {  # jax2onnx first: it makes JAX forget all that was compiled before
    "onnxruntime": of_onnx,
    "jaxrnn": of_jaxrnn,
    "flax.linen": of_flax,
    "pytorch": of_torch,
}
