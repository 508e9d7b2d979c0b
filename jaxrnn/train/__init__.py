"""How do parameters learn? From one update to many epochs.

In reading order: the state; one update; an epoch, on the device, from the host or along
a stream; evaluation; many epochs, what stops them and what follows them.
"""

# ruff: noqa: I001

from jaxrnn.train.state import TrainState as TrainState
from jaxrnn.train.state import init_state as init_state
from jaxrnn.train.state import create_train_state as create_train_state
from jaxrnn.train.update import train_step as train_step
from jaxrnn.train.over import one_by_one as one_by_one
from jaxrnn.train.epoch import train_epoch as train_epoch
from jaxrnn.train.host import train_batches as train_batches
from jaxrnn.train.stream import train_stream as train_stream
from jaxrnn.train.stream import evaluate_stream as evaluate_stream
from jaxrnn.train.evaluate import evaluate as evaluate
from jaxrnn.train.evaluate import predict as predict
from jaxrnn.train.plateaus import EarlyStopping as EarlyStopping
from jaxrnn.train.plateaus import ReduceOnPlateau as ReduceOnPlateau
from jaxrnn.train.checkpoints import Checkpoints as Checkpoints
from jaxrnn.train.stops import Interrupted as Interrupted
from jaxrnn.train.stops import NonFinite as NonFinite
from jaxrnn.train.fit import fit as fit
from jaxrnn.train import logs as logs
