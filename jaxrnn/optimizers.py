"""How do gradients become updates? Keras' RMSprop and Adam, as Optax transformations.

What Keras passes to an optimizer, Optax chains or schedules:

    clipvalue=0.5              optax.chain(optax.clip(0.5), keras_adam())
    clipnorm=1.0               optax.chain(clip_by_norm(1.0), keras_adam())
    global_clipnorm=1.0        optax.chain(optax.clip_by_global_norm(1.0), keras_adam())
    ExponentialDecay           optax.exponential_decay
    CosineDecay                optax.cosine_decay_schedule
    PiecewiseConstantDecay     optax.piecewise_constant_schedule({boundary + 1: factor})
    LearningRateScheduler      adjustable, and `learning_rate` of `fit`

Clipping comes first, as in Keras: before the moments of the gradients are taken.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
import optax

P = ParamSpec("P")
R = TypeVar("R")


def _same_for_equal(build: Callable[P, R]) -> Callable[P, R]:
    """Settings that are equal give the same object, for which nothing recompiles."""
    kept: Any = functools.lru_cache(maxsize=64, typed=True)(build)

    @functools.wraps(build)
    def built(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return kept(*args, **kwargs)
        except TypeError:  # a setting without a hash, an array say
            return build(*args, **kwargs)

    return built


def _check_number(
    name: str, number: Any, *, below: float = math.inf, or_else: str = ""
) -> None:
    """Raises where a setting is no number, or is known and not in [0, below)."""
    is_known = not isinstance(number, jax.core.Tracer)
    array = np.asarray(number) if is_known else number
    upper = "" if below == math.inf else f" and below {below:g}"
    message = (
        f"{name} must be one number of at least 0{upper}{or_else}, got {number!r}."
    )
    is_real = any(jnp.issubdtype(array.dtype, x) for x in (jnp.floating, jnp.integer))
    if array.shape or not is_real:
        raise TypeError(message)
    if is_known and not 0 <= array < below:
        raise ValueError(message)


def _check_learning_rate(rate: Any) -> None:
    """At a rate of None Optax would climb, and an array would change all shapes."""
    if not callable(rate):
        _check_number("learning_rate", rate, or_else=", or a schedule")


@_same_for_equal
def keras_rmsprop(
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
      learning_rate: a number, or an Optax schedule, which counts updates from 0.
      rho: decay of v; Optax' `decay`.
      momentum: of the update; 0 = none.
      epsilon: inside the root.
      centered: subtract the square of the mean gradient from v.

    Raises:
      TypeError: a setting that is no number.
      ValueError: a negative one; `rho` or `momentum` of 1 or more.

    Example:
      >>> optimizer = keras_rmsprop(0.01)
      >>> updates, _ = optimizer.update(
      ...     {"w": jnp.array(2.0)}, optimizer.init({"w": jnp.array(1.0)})
      ... )
      >>> round(updates["w"].item(), 4)  # -0.01 / sqrt(0.1)
      -0.0316
    """
    _check_learning_rate(learning_rate)
    _check_number("rho", rho, below=1.0)
    _check_number("momentum", momentum or 0.0, below=1.0)
    _check_number("epsilon", epsilon)
    return optax.rmsprop(
        learning_rate,
        decay=rho,
        eps=epsilon,
        momentum=momentum or None,
        centered=centered,
    )


@_same_for_equal
def keras_adam(
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
    constant epsilon makes the two agree. For Keras' `weight_decay`, which is AdamW,
    chain `scale_by_adam_epsilon_hat()`, `optax.add_decayed_weights(0.004)` and
    `optax.scale_by_learning_rate(0.001)`.

    Args:
      learning_rate: a number, or an Optax schedule, which counts updates from 0.
      b1: decay of m; Keras' `beta_1`.
      b2: decay of v; Keras' `beta_2`.
      epsilon: epsilon hat.

    Raises:
      TypeError: a setting that is no number.
      ValueError: a negative one; `b1` or `b2` of 1 or more.

    Example:
      >>> optimizer = keras_adam(0.01)
      >>> updates, _ = optimizer.update(
      ...     {"w": jnp.array(2.0)}, optimizer.init({"w": jnp.array(1.0)})
      ... )
      >>> round(updates["w"].item(), 6)
      -0.01

    Reference: Kingma and Ba, Adam: a method for stochastic optimization, 2015, the
    remark at the end of section 2.
    """
    _check_learning_rate(learning_rate)
    return optax.chain(
        scale_by_adam_epsilon_hat(b1, b2, epsilon),
        optax.scale_by_learning_rate(learning_rate),
    )


@_same_for_equal
def scale_by_adam_epsilon_hat(
    b1: float = 0.9, b2: float = 0.999, epsilon: float = 1e-7
) -> optax.GradientTransformation:
    """`keras_adam` before the learning rate, to be chained with other transformations.

    Args:
      b1: decay of the mean of the gradients.
      b2: decay of the mean of their squares.
      epsilon: epsilon hat.

    Raises:
      TypeError, ValueError: as `keras_adam`.

    Returns:
      A transformation whose state is an `optax.ScaleByAdamState`.

    Example:
      >>> clipped = optax.chain(optax.clip(1.0), scale_by_adam_epsilon_hat())
      >>> isinstance(clipped, optax.GradientTransformation)
      True
    """
    _check_number("b1", b1, below=1.0)
    _check_number("b2", b2, below=1.0)
    _check_number("epsilon", epsilon)

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


@_same_for_equal
def clip_by_norm(max_norm: float) -> optax.GradientTransformation:
    """Shortens the gradient of each parameter by itself: Keras' `clipnorm`.

        g' = g max_norm / max(|g|, max_norm)

    `optax.clip_by_global_norm` (Keras' `global_clipnorm`) takes one norm over all
    parameters, which keeps the direction of the whole gradient; this does not.

    Args:
      max_norm: the largest norm of the gradient of a parameter, positive.

    Raises:
      TypeError: `max_norm` that is no number.
      ValueError: one that is not positive.

    Example:
      >>> clip = clip_by_norm(1.0)
      >>> gradients = {"a": jnp.array([3.0, 4.0]), "b": jnp.array([0.5])}
      >>> clipped, _ = clip.update(gradients, clip.init(gradients))
      >>> clipped["a"].round(3).tolist(), clipped["b"].tolist()
      ([0.6000000238418579, 0.800000011920929], [0.5])
    """
    _check_number("max_norm", max_norm)
    if not max_norm > 0:
        raise ValueError(f"max_norm must be positive, got {max_norm}.")

    def clip(gradient: Any, param: Any) -> Any:
        del param
        norm = jnp.sqrt(jnp.square(gradient).sum())
        return gradient * max_norm / jnp.maximum(norm, max_norm)

    return optax.stateless_with_tree_map(clip)


@_same_for_equal
def adjustable(
    make_optimizer: Callable[[Any], optax.GradientTransformation], learning_rate: float
) -> optax.GradientTransformationExtraArgs:
    """An optimizer whose learning rate stands in its state, where `fit` can change it.

    It is `optax.inject_hyperparams` of the learning rate alone: the other settings stay
    Python numbers, so the updates are those of `make_optimizer(learning_rate)`, to the
    last digit. Another rate is another number in the state and compiles nothing.

    Args:
      make_optimizer: from a learning rate to an Optax transformation, such as
        `keras_adam` or `lambda rate: optax.chain(clip_by_norm(1.0), optax.sgd(rate))`.
      learning_rate: the first one; a schedule, which counts updates by itself, goes to
        `keras_adam` directly.

    Returns:
      An Optax transformation, for `init_state` and for `fit(..., learning_rate=...)`.

    Raises:
      TypeError: a schedule, what is no number, or an optimizer in place of what makes
        one.
      ValueError: a negative rate.

    Example:
      >>> optimizer = adjustable(keras_adam, 0.01)
      >>> params = {"w": jnp.array(1.0)}
      >>> state = optimizer.init(params)
      >>> state = optax.tree.set(state, learning_rate=jnp.array(0.5))
      >>> updates, _ = optimizer.update({"w": jnp.array(2.0)}, state, params)
      >>> round(updates["w"].item(), 4)
      -0.5
    """
    if callable(learning_rate):
        raise TypeError(
            "adjustable takes the first learning rate, a number, got a function; a "
            "schedule of updates goes to the optimizer itself: keras_adam(schedule)."
        )
    if not callable(make_optimizer):
        raise TypeError(
            "adjustable takes a function from a learning rate to an optimizer, got "
            f"{type(make_optimizer).__name__}; write adjustable(keras_adam, 0.001)."
        )
    _check_number("learning_rate", learning_rate)
    inject = optax.inject_hyperparams(
        lambda learning_rate: make_optimizer(learning_rate)
    )
    return inject(learning_rate)
