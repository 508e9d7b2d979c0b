"""What happens at one time step, one cell per file."""

from jaxrnn.cells.activations import linear as linear
from jaxrnn.cells.base import Adjoint as Adjoint
from jaxrnn.cells.base import Cell as Cell
from jaxrnn.cells.base import Params as Params
from jaxrnn.cells.base import ParamSpec as ParamSpec
from jaxrnn.cells.base import init_params as init_params
from jaxrnn.cells.gru import gru as gru
from jaxrnn.cells.gru import gru_cell as gru_cell
from jaxrnn.cells.lstm import LSTMCarry as LSTMCarry
from jaxrnn.cells.lstm import lstm as lstm
from jaxrnn.cells.lstm import lstm_cell as lstm_cell
from jaxrnn.cells.simple_rnn import simple_rnn as simple_rnn
from jaxrnn.cells.simple_rnn import simple_rnn_cell as simple_rnn_cell
