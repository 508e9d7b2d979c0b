"""What does a recurrence do: forget, explode, settle, or nothing at all?

Pure functions of a cell, its parameters and inputs, time axis first as in `rnn`. They
compute in the dtype that inputs and parameters promote to, in float32 at least. Layers
hold what they take: `layer.make_cell()` and the layer's parameters.

Two questions need no function. How far from orthogonal has a recurrent kernel moved?
Its spectral radius, the largest modulus of an eigenvalue, was 1:

    >>> params = init_params(simple_rnn, jax.random.key(0), in_features=1, features=8)
    >>> radius = abs(np.linalg.eigvals(params["recurrent_kernel"])).max()
    >>> np.isclose(radius, 1, atol=1e-5).item()
    True

Does a recurrence take part at all? Its recurrent kernel has a gradient. Here is a
window of four numbers, read as four features of one step in place of four steps of one
feature: from a zero carry the kernel multiplies zeros once, and learns nothing.

    >>> def kernel_gradient(windows):
    ...     recurrent = SimpleRNN(32, activation=jax.nn.relu)
    ...     model = Forecaster(recurrent, hidden_features=8)
    ...     params = model.init(jax.random.key(0), windows)
    ...     loss = lambda params: (model.apply(params, windows) ** 2).mean()
    ...     gradients = jax.grad(loss)(params)["params"]
    ...     return gradients["recurrent"]["recurrent_kernel"]
    >>> windows = jnp.sin(jnp.arange(40.0)).reshape(10, 4)
    >>> jnp.abs(kernel_gradient(windows[:, None, :])).max().item()  # (N, 1, 4)
    0.0
    >>> bool(jnp.abs(kernel_gradient(windows[:, :, None])).max() > 0)  # (N, 4, 1)
    True
"""

from jaxrnn.diagnostics.gradients import gradient_norms as gradient_norms
from jaxrnn.diagnostics.gradients import output_jacobians as output_jacobians
from jaxrnn.diagnostics.gradients import step_jacobians as step_jacobians
from jaxrnn.diagnostics.lyapunov import lyapunov_exponents as lyapunov_exponents
from jaxrnn.diagnostics.points import FixedPoints as FixedPoints
from jaxrnn.diagnostics.points import fixed_points as fixed_points
