"""How do trained weights come in and go out? One counterpart per file.

Every function takes and returns plain parameters, nested dicts as `model.init` makes
them. What comes in is NumPy arrays in the dtypes of the source. None of the libraries
is imported; h5py and safetensors are, by the functions that read and write files. A
file that a reader refuses is a `BadFile`, a ValueError with the path, the rule and what
was found instead.
"""

from jaxrnn.interchange.keras.weights import from_keras, to_keras  # isort: skip
from jaxrnn.interchange.keras.files import (  # isort: skip
    load_keras,
    save_keras_weights,
    save_keras_model,
    replace_keras_weights,
)
from jaxrnn.interchange.keras.model import load_keras_model  # isort: skip
from jaxrnn.interchange.keras.hard_sigmoid import to_hard_sigmoid  # isort: skip
from jaxrnn.interchange.torch import from_torch, to_torch  # isort: skip
from jaxrnn.interchange.torch_models import (  # isort: skip
    from_torch_model,
    to_torch_model,
)
from jaxrnn.interchange.flax import from_linen, to_linen, from_nnx, to_nnx  # isort: skip
from jaxrnn.interchange.equinox import from_equinox, to_equinox  # isort: skip
from jaxrnn.interchange.safetensors import save, load  # isort: skip
from jaxrnn.files import BadFile  # isort: skip

__all__ = [  # noqa: RUF022 (in reading order)
    "from_keras",
    "to_keras",
    "load_keras",
    "load_keras_model",
    "to_hard_sigmoid",
    "save_keras_weights",
    "save_keras_model",
    "replace_keras_weights",
    "from_torch",
    "to_torch",
    "from_torch_model",
    "to_torch_model",
    "from_linen",
    "to_linen",
    "from_nnx",
    "to_nnx",
    "from_equinox",
    "to_equinox",
    "save",
    "load",
    "BadFile",
]
