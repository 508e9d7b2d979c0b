"""jaxrnn, sixteen small models in one program, side by side: `jax.vmap` over states.

An update is that of one model, so that its time can be laid beside the others'.
"""

import functools

import with_jaxrnn
from on_jax import device as device
from with_jaxrnn import missing as missing

train = functools.partial(with_jaxrnn.train, models=16)
