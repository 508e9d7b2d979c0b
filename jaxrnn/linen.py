"""The Flax Linen layers: a table of contents, at hand in `jaxrnn` too."""

from jaxrnn.layers.combine import concatenate as concatenate
from jaxrnn.layers.linen import GRU as GRU
from jaxrnn.layers.linen import LSTM as LSTM
from jaxrnn.layers.linen import Embed as Embed
from jaxrnn.layers.linen import Recurrent as Recurrent
from jaxrnn.layers.linen import SimpleRNN as SimpleRNN
from jaxrnn.layers.linen_rnn import RNN as RNN
from jaxrnn.layers.linen_wrappers import Bidirectional as Bidirectional
from jaxrnn.layers.linen_wrappers import Stacked as Stacked
from jaxrnn.layers.linen_wrappers import TimeDistributed as TimeDistributed
