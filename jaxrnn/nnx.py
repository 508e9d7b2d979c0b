"""The Flax NNX layers: a table of contents with the names of `jaxrnn.linen`.

It is imported by itself (`import jaxrnn.nnx`), as it brings in `flax.nnx`.
"""

from jaxrnn.layers.combine import concatenate as concatenate
from jaxrnn.layers.nnx import GRU as GRU
from jaxrnn.layers.nnx import LSTM as LSTM
from jaxrnn.layers.nnx import Embed as Embed
from jaxrnn.layers.nnx import Recurrent as Recurrent
from jaxrnn.layers.nnx import SimpleRNN as SimpleRNN
from jaxrnn.layers.nnx_rnn import RNN as RNN
from jaxrnn.layers.nnx_wrappers import Bidirectional as Bidirectional
from jaxrnn.layers.nnx_wrappers import Stacked as Stacked
from jaxrnn.layers.nnx_wrappers import TimeDistributed as TimeDistributed
