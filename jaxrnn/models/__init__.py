"""The tutorials' models and their neighbours: Linen modules around one layer."""

from jaxrnn.models.series import Forecaster as Forecaster
from jaxrnn.models.text import FlattenClassifier as FlattenClassifier
from jaxrnn.models.text import TextClassifier as TextClassifier
from jaxrnn.models.text import TextTagger as TextTagger
