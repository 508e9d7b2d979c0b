"""What happens at one time step, one cell per file."""

from jaxrnn.cells.activations import linear as linear
from jaxrnn.cells.base import Adjoint as Adjoint
from jaxrnn.cells.base import Cell as Cell
from jaxrnn.cells.base import ElementwiseAdjoint as ElementwiseAdjoint
from jaxrnn.cells.base import Params as Params
from jaxrnn.cells.base import ParamSpec as ParamSpec
from jaxrnn.cells.base import init_params as init_params
from jaxrnn.cells.gru import gru as gru
from jaxrnn.cells.gru import gru_cell as gru_cell
from jaxrnn.cells.ind_rnn import ind_rnn as ind_rnn
from jaxrnn.cells.ind_rnn import ind_rnn_cell as ind_rnn_cell
from jaxrnn.cells.layer_norm import layer_norm_gru as layer_norm_gru
from jaxrnn.cells.layer_norm import layer_norm_gru_cell as layer_norm_gru_cell
from jaxrnn.cells.layer_norm import layer_norm_lstm as layer_norm_lstm
from jaxrnn.cells.layer_norm import layer_norm_lstm_cell as layer_norm_lstm_cell
from jaxrnn.cells.lstm import LSTMCarry as LSTMCarry
from jaxrnn.cells.lstm import lstm as lstm
from jaxrnn.cells.lstm import lstm_cell as lstm_cell
from jaxrnn.cells.mgu import mgu as mgu
from jaxrnn.cells.mgu import mgu_cell as mgu_cell
from jaxrnn.cells.noise import dropout_cell as dropout_cell
from jaxrnn.cells.noise import zoneout_cell as zoneout_cell
from jaxrnn.cells.simple_rnn import simple_rnn as simple_rnn
from jaxrnn.cells.simple_rnn import simple_rnn_cell as simple_rnn_cell
