"""What is an argument of a layer called elsewhere?"""

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar

OF_RECURRENT = {
    **dict.fromkeys(("units", "hidden_size", "hidden_features"), "features={}"),
    **dict.fromkeys(
        ("input_size", "input_dim", "input_shape"),
        "in_features for a layer of jaxrnn.nnx; one of Linen finds it in its inputs",
    ),
    "proj_size": "projection_features={}",
    "bias": "use_bias={}",
    "nonlinearity": "activation=jax.nn.relu, say",
    "batch_first": "time_major, its opposite, False where nothing is said",
    "num_layers": "Stacked(layer, num_layers={})",
    "bidirectional": "Bidirectional(layer)",
    "go_backwards": "reverse={}, with keep_order=False for Keras' order",
    "return_state": "return_carry={}",
    "stateful": "initial_carry=carry in the next call, or take train_stream",
    "unroll": "solver=jaxrnn.Scan(unroll={})",
    "kernel_initializer": "kernel_init=jax.nn.initializers.glorot_uniform(), say",
    "recurrent_initializer": "recurrent_kernel_init=jax.nn.initializers.orthogonal()",
    "bias_initializer": "bias_init=jax.nn.initializers.zeros, say",
    **{
        f"{of}_{kind}": write
        for of in ("kernel", "recurrent", "bias", "activity")
        for kind, write in (
            ("regularizer", "regularizers.penalty in the loss_fn"),
            ("constraint", "constraints.constrained around the optimizer"),
        )
    },
}
OF_EMBED = {
    **dict.fromkeys(("input_dim", "num_embeddings"), "vocab_size={}"),
    **dict.fromkeys(("output_dim", "embedding_dim"), "features={}"),
    "embeddings_initializer": "embedding_init=jax.nn.initializers.uniform(), say",
    "padding_idx": "mask_zero=True, where id 0 is padding",
}


class NamedElsewhere:
    """A layer that knows what Keras, PyTorch and Flax call its arguments.

    Attributes:
      elsewhere: `{their name: what to write}`; {} stands for the value.

    Example:
      >>> LSTM(units=32)
      Traceback (most recent call last):
      TypeError: LSTM has no argument units, got units=32; write features=32.
    """

    elsewhere: ClassVar[Mapping[str, str]] = {}

    def __new__(cls, *args: Any, **kwargs: Any):  # what it returns is a cls
        for name, value in kwargs.items():
            if name in cls.elsewhere:
                raise TypeError(
                    f"{cls.__name__} has no argument {name}, got {name}={value!r}; "
                    f"write {cls.elsewhere[name].format(value)}."
                )
        if len(args) > 1:  # PyTorch's LSTM(8, 32)
            taken = inspect.signature(cls.__init__).parameters.values()
            names = [p.name for p in taken if p.kind is p.POSITIONAL_OR_KEYWORD][1:]
            if len(args) > len(names):
                raise TypeError(
                    f"{cls.__name__} takes {' and '.join(names)} without a name, got "
                    f"{args}; write the names of all others. in_features is one of "
                    "jaxrnn.nnx alone: a layer of Linen finds it in its inputs."
                )
        return super().__new__(cls)
