"""Optax transformations with Keras' numerics: RMSprop and Adam."""

from typing import Any

import jax
import jax.numpy as jnp
import optax


def rmsprop(
    learning_rate: optax.ScalarOrSchedule = 0.001,
    *,
    rho: float = 0.9,
    momentum: float = 0.0,
    epsilon: float = 1e-7,
    centered: bool = False,
) -> optax.GradientTransformation:
    """Keras' RMSprop: `optax.rmsprop` with Keras' names and defaults.

        v_t = rho v_{t-1} + (1 - rho) g_t^2
        p_t = p_{t-1} - learning_rate g_t / sqrt(v_t + epsilon)

    Optax' own default, epsilon = 1e-8, gives other numbers: v starts at 0, where
    epsilon decides.

    Args:
      learning_rate: a number or an Optax schedule.
      rho: decay of v; Optax' `decay`.
      momentum: of the update; 0 = none.
      epsilon: inside the root.
      centered: subtract the square of the mean gradient from v.

    Example:
      >>> optimizer = rmsprop(0.01)
      >>> updates, _ = optimizer.update(
      ...     {"w": jnp.array(2.0)}, optimizer.init({"w": jnp.array(1.0)})
      ... )
      >>> round(updates["w"].item(), 4)  # -0.01 / sqrt(0.1)
      -0.0316
    """
    return optax.rmsprop(
        learning_rate,
        decay=rho,
        eps=epsilon,
        momentum=momentum or None,
        centered=centered,
    )


def adam(
    learning_rate: optax.ScalarOrSchedule = 0.001,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    epsilon: float = 1e-7,
) -> optax.GradientTransformation:
    """Keras' Adam, which is the paper's "epsilon hat" form.

        m_t = b1 m_{t-1} + (1 - b1) g_t
        v_t = b2 v_{t-1} + (1 - b2) g_t^2
        a_t = learning_rate sqrt(1 - b2^t) / (1 - b1^t)
        p_t = p_{t-1} - a_t m_t / (sqrt(v_t) + epsilon)

    `optax.adam` (and PyTorch's) adds epsilon after the correction of v instead; no
    constant epsilon makes the two agree.

    Args:
      learning_rate: a number or an Optax schedule.
      b1: decay of m; Keras' `beta_1`.
      b2: decay of v; Keras' `beta_2`.
      epsilon: epsilon hat.

    Example:
      >>> optimizer = adam(0.01)
      >>> updates, _ = optimizer.update(
      ...     {"w": jnp.array(2.0)}, optimizer.init({"w": jnp.array(1.0)})
      ... )
      >>> round(updates["w"].item(), 6)
      -0.01

    Reference: Kingma and Ba, Adam: a method for stochastic optimization, 2015, the
    remark at the end of section 2.
    """
    return optax.chain(
        scale_by_adam_epsilon_hat(b1, b2, epsilon),
        optax.scale_by_learning_rate(learning_rate),
    )


def scale_by_adam_epsilon_hat(
    b1: float = 0.9, b2: float = 0.999, epsilon: float = 1e-7
) -> optax.GradientTransformation:
    """`adam` before the learning rate, to be chained with other transformations.

    Args:
      b1: decay of the mean of the gradients.
      b2: decay of the mean of their squares.
      epsilon: epsilon hat.

    Returns:
      A transformation whose state is an `optax.ScaleByAdamState`.

    Example:
      >>> clipped = optax.chain(optax.clip(1.0), scale_by_adam_epsilon_hat())
      >>> isinstance(clipped, optax.GradientTransformation)
      True
    """

    def init(params: optax.Params) -> optax.ScaleByAdamState:
        mu, nu = (jax.tree.map(jnp.zeros_like, params) for _ in range(2))
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), mu, nu)

    def update(
        updates: Any, state: Any, params: Any = None
    ) -> tuple[Any, optax.ScaleByAdamState]:
        del params
        count, mu, nu = state
        count = optax.safe_increment(count)
        mu = jax.tree.map(lambda m, g: m + (g - m) * (1 - b1), mu, updates)
        nu = jax.tree.map(lambda v, g: v + (g * g - v) * (1 - b2), nu, updates)
        t = jnp.asarray(count, jnp.float32)
        correction = jnp.sqrt(1 - b2**t) / (1 - b1**t)
        scaled = jax.tree.map(
            lambda m, v: correction.astype(m.dtype) * m / (jnp.sqrt(v) + epsilon),
            mu,
            nu,
        )
        return scaled, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(init, update)
