"""What do the cells compute with? Matmuls that sum in float32, and their gradients."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from jaxrnn.cells.base import AnyArray, Params


def matmul(
    values: Float[Array, "*rows a"], kernel: Float[Array, "a b"]
) -> Float[Array, "*rows b"]:
    """`values @ kernel` in the dtype of `values`, with sums in float32 or wider.

    The kernel is rounded here, so that its gradient adds up in its own dtype: with
    bfloat16 values and a float32 kernel, in float32.

    Example:
      >>> values = jnp.ones((5, 3), jnp.bfloat16)
      >>> matmul(values, jnp.ones((3, 4))).dtype
      dtype(bfloat16)
    """
    dtype = values.dtype
    sums = dtype if dtype.itemsize >= 4 else jnp.float32
    product = jnp.matmul(values, kernel.astype(dtype), preferred_element_type=sums)
    return product.astype(dtype)


def gated_matmul(
    values: Float[Array, "*rows a"],
    kernel: Float[Array, "a b"],
    masks: Float[Array, "..."] | None,
) -> Float[Array, "*rows b"]:
    """`matmul`, with a dropout mask for `values`, or one for each gate.

    Args:
      values: what is multiplied.
      kernel: the gates side by side.
      masks: (1 or gates, *batch, a); None = nothing is dropped.

    Example:
      >>> masks = jnp.array([[[1.0, 0.0]], [[0.0, 1.0]]])  # of two gates, one row
      >>> gated_matmul(jnp.array([[2.0, 3.0]]), jnp.ones((2, 2)), masks)
      Array([[2., 3.]], dtype=float32)
    """
    if masks is None:
        return matmul(values, kernel)
    gates = jnp.split(kernel, masks.shape[0], axis=-1)
    leading = (None,) * (values.ndim + 1 - masks.ndim)  # time, where it is projected
    return jnp.concatenate(
        [
            matmul(values * mask[leading], gate)
            for mask, gate in zip(masks.astype(values.dtype), gates, strict=True)
        ],
        axis=-1,
    )


def as_row(row: Float[Array, " a"], values: Float[Array, "*rows a"]) -> Array:
    """`row` with the rank and dtype of `values`, so that the two add and multiply.

    Example:
      >>> as_row(jnp.ones(4), jnp.ones((7, 5, 4), jnp.bfloat16)).shape
      (1, 1, 4)
    """
    return jnp.expand_dims(row.astype(values.dtype), tuple(range(values.ndim - 1)))


def add_row(
    values: Float[Array, "*rows a"], row: Float[Array, " a"]
) -> Float[Array, "*rows a"]:
    """Adds `row`, such as a bias, to every row, in the dtype of `values`.

    Example:
      >>> add_row(jnp.zeros((2, 3)), jnp.arange(3.0)).tolist()
      [[0.0, 1.0, 2.0], [0.0, 1.0, 2.0]]
    """
    return values + as_row(row, values)


def affine_project(params: Params, inputs: Array) -> Array:
    """The `project` of most cells: all gates of x_t W + b in one matmul.

        inputs @ params["kernel"] + params["bias"]

    The bias where there is one; with the masks that `dropout_cell` has drawn.

    Example:
      >>> params = {"kernel": jnp.ones((2, 8)), "bias": jnp.ones(8)}
      >>> affine_project(params, jnp.ones((5, 2))).shape
      (5, 8)
    """
    projected = gated_matmul(inputs, params["kernel"], params.get("dropout"))
    return add_row(projected, params["bias"]) if "bias" in params else projected


def recurrent_project(params: Params, hidden: Array) -> Array:
    """What most steps add to it: all gates of h_{t-1} U in one matmul.

        hidden @ params["recurrent_kernel"]

    With the masks of recurrent dropout that `dropout_cell` has drawn.

    Example:
      >>> recurrent_project({"recurrent_kernel": jnp.eye(3)}, jnp.ones((5, 3))).shape
      (5, 3)
    """
    masks = params.get("recurrent_dropout")
    return gated_matmul(hidden, params["recurrent_kernel"], masks)


def kernel_gradient(
    kernel: Float[Array, "a b"], left: Float[Array, "*rows a"], delta: Array
) -> Float[Array, "a b"]:
    """The gradient of `kernel` in `left @ kernel`: one matmul over all leading axes.

        left^T @ delta

    It adds up in the dtype of the kernel. `delta` is (*rows, b), such as (time, batch,
    b), the gradient of the product.

    Example:
      >>> kernel, left = jnp.ones((2, 3)), jnp.ones((7, 5, 2))
      >>> kernel_gradient(kernel, left, jnp.ones((7, 5, 3))).tolist()
      [[35.0, 35.0, 35.0], [35.0, 35.0, 35.0]]
    """
    rows = tuple(range(left.ndim - 1))
    sharding = jax.typeof(kernel).sharding  # of the sum over rows, where they have one
    return jax.lax.dot_general(
        left,
        delta,
        ((rows, rows), ((), ())),
        preferred_element_type=kernel.dtype,
        out_sharding=None if sharding.mesh.empty else sharding,
    )


def row_gradient(
    row: Float[Array, " a"], delta: Float[Array, "*rows a"]
) -> Float[Array, " a"]:
    """The gradient of a row that was added: the sum over all leading axes.

    Example:
      >>> row_gradient(jnp.ones(3), jnp.ones((7, 5, 3)))
      Array([35., 35., 35.], dtype=float32)
    """
    return delta.sum(axis=tuple(range(delta.ndim - 1)), dtype=row.dtype)


def affine_gradients(
    params: Params, inputs: Array, delta: Array
) -> tuple[dict[str, Array], Array]:
    """The gradients of `affine_project` without dropout, and the inputs' cotangent.

    Args:
      params: `kernel`, and `bias` where there is one.
      inputs: (*rows, in_features), such as (time, batch, in_features).
      delta: (*rows, gates * features), the gradient of what was projected.

    Example:
      >>> params = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}
      >>> rows = jnp.ones((7, 5, 2)), jnp.ones((7, 5, 3))
      >>> gradients, of_inputs = affine_gradients(params, *rows)
      >>> gradients["bias"].tolist(), of_inputs.shape
      ([35.0, 35.0, 35.0], (7, 5, 2))
    """
    gradients = {"kernel": kernel_gradient(params["kernel"], inputs, delta)}
    if "bias" in params:
        gradients["bias"] = row_gradient(params["bias"], delta)
    return gradients, matmul(delta, params["kernel"].T)


def is_divided(*arrays: AnyArray) -> bool:
    """Whether the devices of a mesh may hold one of the arrays in parts.

    To merge an axis that is divided would gather the array on every device. Inside
    `jax.shard_map` nothing is divided: what is at hand there is one part.

    Example:
      >>> is_divided(jnp.ones((2, 3)))
      False
    """
    meshes = (jax.typeof(array).sharding.mesh for array in arrays)
    return any(
        size > 1 and kind != AxisType.Manual
        for mesh in meshes
        for size, kind in zip(mesh.axis_sizes, mesh.axis_types, strict=True)
    )


def explicit_sharding(array: AnyArray, *more: None) -> NamedSharding | None:
    """That of an array on a mesh with explicit axes, with more axes at its end.

    What has a type there must be told to an operation that cannot infer it. None where
    there is nothing to tell: on automatic axes, on one device, inside `jax.shard_map`.
    """
    sharding = jax.typeof(array).sharding
    if AxisType.Explicit not in sharding.mesh.axis_types:
        return None
    return NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec, *more))


def as_varying(arrays: Any, like: Any) -> Any:
    """`arrays` as they are, but typed as what differs from device to device.

    Inside of `jax.shard_map` a type says over which axes of the mesh an array varies,
    and a loop must hand on what it was given: of one type. Outside nothing changes.

    Args:
      arrays: a pytree.
      like: arrays that may vary; those returned vary over the axes of all of them.
    """
    axes = frozenset().union(*map(_varying, jax.tree.leaves(like)))
    if not axes:
        return arrays

    def varying(array: Array) -> Array:
        missing = tuple(axes - _varying(array))
        return jax.lax.pcast(array, missing, to="varying") if missing else array

    return jax.tree.map(varying, arrays)


def _varying(array: AnyArray) -> frozenset[str]:
    return jax.typeof(array).manual_axis_type.varying
