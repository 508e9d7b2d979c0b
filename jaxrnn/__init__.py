"""jaxrnn: recurrent networks for JAX. The public names, in reading order."""

# ruff: noqa: I001

# One time step: a cell is a value, five pure functions.
from jaxrnn.cells import Adjoint as Adjoint
from jaxrnn.cells import Cell as Cell
from jaxrnn.cells import ElementwiseAdjoint as ElementwiseAdjoint
from jaxrnn.cells import Linear as Linear
from jaxrnn.cells import LSTMCarry as LSTMCarry
from jaxrnn.cells import ParamSpec as ParamSpec
from jaxrnn.cells import simple_rnn as simple_rnn
from jaxrnn.cells import gru as gru
from jaxrnn.cells import lstm as lstm
from jaxrnn.cells import simple_rnn_cell as simple_rnn_cell
from jaxrnn.cells import gru_cell as gru_cell
from jaxrnn.cells import lstm_cell as lstm_cell
from jaxrnn.cells import ind_rnn as ind_rnn
from jaxrnn.cells import mgu as mgu
from jaxrnn.cells import layer_norm_gru as layer_norm_gru
from jaxrnn.cells import layer_norm_lstm as layer_norm_lstm
from jaxrnn.cells import ind_rnn_cell as ind_rnn_cell
from jaxrnn.cells import mgu_cell as mgu_cell
from jaxrnn.cells import layer_norm_gru_cell as layer_norm_gru_cell
from jaxrnn.cells import layer_norm_lstm_cell as layer_norm_lstm_cell
from jaxrnn.cells import min_gru as min_gru
from jaxrnn.cells import min_lstm as min_lstm
from jaxrnn.cells import lru as lru
from jaxrnn.cells import rg_lru as rg_lru
from jaxrnn.cells import min_gru_cell as min_gru_cell
from jaxrnn.cells import min_lstm_cell as min_lstm_cell
from jaxrnn.cells import lru_cell as lru_cell
from jaxrnn.cells import rg_lru_cell as rg_lru_cell
from jaxrnn.cells import dropout_cell as dropout_cell
from jaxrnn.cells import zoneout_cell as zoneout_cell
from jaxrnn.cells import linear as linear
from jaxrnn.cells import keras2_hard_sigmoid as keras2_hard_sigmoid
from jaxrnn.cells import init_params as init_params

# How the steps become a sequence.
from jaxrnn.solvers import Solver as Solver
from jaxrnn.solvers import Scan as Scan
from jaxrnn.solvers import Fused as Fused
from jaxrnn.solvers import HoistedScan as HoistedScan
from jaxrnn.solvers import Native as Native
from jaxrnn.solvers import ParallelScan as ParallelScan
from jaxrnn.solvers import Deer as Deer
from jaxrnn.solvers import Checkpointed as Checkpointed
from jaxrnn.solvers import Steps as Steps
from jaxrnn.solvers import default_solver as default_solver
from jaxrnn.recurrence import rnn as rnn
from jaxrnn.recurrence import rnn_carries as rnn_carries
from jaxrnn.recurrence import rnn_step as rnn_step
from jaxrnn.recurrence import lengths_to_mask as lengths_to_mask

# What a recurrence does: forget, explode, settle, or nothing at all.
from jaxrnn import diagnostics as diagnostics

# Flax Linen layers and models.
from jaxrnn.linen import Embed as Embed
from jaxrnn.linen import SimpleRNN as SimpleRNN
from jaxrnn.linen import GRU as GRU
from jaxrnn.linen import LSTM as LSTM
from jaxrnn.linen import Recurrent as Recurrent
from jaxrnn.linen import Bidirectional as Bidirectional
from jaxrnn.linen import Stacked as Stacked
from jaxrnn.linen import TimeDistributed as TimeDistributed
from jaxrnn.linen import concatenate as concatenate
from jaxrnn.linen import RNN as RNN
from jaxrnn.models import TextClassifier as TextClassifier
from jaxrnn.models import TextTagger as TextTagger
from jaxrnn.models import FlattenClassifier as FlattenClassifier
from jaxrnn.models import Forecaster as Forecaster
from jaxrnn.models import Sequential as Sequential

# What goes in: text, reviews, series, batches (NumPy only).
from jaxrnn import data as data

# How parameters learn.
from jaxrnn.losses import binary_cross_entropy as binary_cross_entropy
from jaxrnn.losses import binary_accuracy as binary_accuracy
from jaxrnn.losses import binary_classification_loss as binary_classification_loss
from jaxrnn.losses import classification_loss as classification_loss
from jaxrnn.losses import multi_label_loss as multi_label_loss
from jaxrnn.losses import squared_error_loss as squared_error_loss
from jaxrnn.losses import class_weights as class_weights
from jaxrnn import regularizers as regularizers
from jaxrnn import constraints as constraints
from jaxrnn.optimizers import keras_rmsprop as keras_rmsprop
from jaxrnn.optimizers import keras_adam as keras_adam
from jaxrnn.optimizers import clip_by_norm as clip_by_norm
from jaxrnn.optimizers import adjustable as adjustable
from jaxrnn import metrics as metrics
from jaxrnn.metrics import Mean as Mean
from jaxrnn.train import TrainState as TrainState
from jaxrnn.train import init_state as init_state
from jaxrnn.train import create_train_state as create_train_state
from jaxrnn.train import train_step as train_step
from jaxrnn.train import train_epoch as train_epoch
from jaxrnn.train import train_batches as train_batches
from jaxrnn.train import train_stream as train_stream
from jaxrnn.train import evaluate as evaluate
from jaxrnn.train import evaluate_stream as evaluate_stream
from jaxrnn.train import predict as predict
from jaxrnn.train import one_by_one as one_by_one
from jaxrnn.train import EarlyStopping as EarlyStopping
from jaxrnn.train import ReduceOnPlateau as ReduceOnPlateau
from jaxrnn.train import Checkpoints as Checkpoints
from jaxrnn.train import Interrupted as Interrupted
from jaxrnn.train import NonFinite as NonFinite
from jaxrnn.train import fit as fit
from jaxrnn.train import logs as logs

# How trained weights come in and go out (jaxrnn.nnx is imported by itself).
from jaxrnn import interchange as interchange

# How files are written whole, results as one JSON object a line.
from jaxrnn import files as files


def __getattr__(name: str) -> str:
    """The version, which is looked up where it is asked for."""
    if name == "__version__":
        import importlib.metadata

        return importlib.metadata.version("jaxrnn")
    raise AttributeError(f"module 'jaxrnn' has no attribute {name!r}")
