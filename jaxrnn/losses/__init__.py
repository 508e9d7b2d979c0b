"""What a `loss_fn` returns: losses with their means, written once.

Each takes predictions, targets, the weights of the batch and perhaps a mask, and
returns the mean loss with the sums that add up exactly over batches.
"""

from jaxrnn.losses.binary import binary_accuracy as binary_accuracy
from jaxrnn.losses.binary import (
    binary_classification_loss as binary_classification_loss,
)
from jaxrnn.losses.binary import binary_cross_entropy as binary_cross_entropy
from jaxrnn.losses.classes import classification_loss as classification_loss
from jaxrnn.losses.classes import multi_label_loss as multi_label_loss
from jaxrnn.losses.errors import squared_error_loss as squared_error_loss
from jaxrnn.losses.weights import class_weights as class_weights
