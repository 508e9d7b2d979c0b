"""How does an epoch come in parts? So many updates, and then a look around.

`(epoch, updates done, position) -> parts`, each `state -> (state, means, means of every
update or None, number of updates)`. A part does not use up the state that it is given.
"""

import collections
import functools
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array, Int, UInt32

from jaxrnn.data.batches import Batch, Dataset, num_examples
from jaxrnn.metrics import Mean
from jaxrnn.train.checks import returned_by
from jaxrnn.train.devices import sent
from jaxrnn.train.epoch import keeping_epoch
from jaxrnn.train.host import check_batches, train_batches
from jaxrnn.train.over import Over
from jaxrnn.train.state import TrainState

Part = Callable[[TrainState], tuple[TrainState, dict[str, Mean], Any, int]]


class Rows:
    """The parts of an epoch over a dataset in memory: programs on the device."""

    def __init__(
        self,
        dataset: Dataset,
        key: Array,
        rows: Any,
        batch_size: int,
        updates: int | None,
        shuffle: bool,
        over: Over | None,
        sharding: NamedSharding | None,
        options: Any,
    ) -> None:
        self.sharding = sharding
        self.dataset = sent(sharding, dataset)
        examples = num_examples(dataset)
        if rows is None:
            rows = np.broadcast_to(np.arange(examples), (*key.shape, examples))
        self.rows = np.asarray(rows, np.int32)
        self.words = np.asarray(jax.random.key_data(key))
        self.batch_size, self.shuffle = batch_size, shuffle
        self.updates = updates or -(-self.rows.shape[-1] // batch_size)
        sizes = {"batch_size": batch_size, "over": over, "sharding": sharding}
        self.options = options | sizes

    def names(self, state: TrainState) -> set[str]:
        """Of the means, before anything has run: the program is traced, once."""
        first = self.rows[..., : self.updates * self.batch_size]
        shapes = keeping_epoch.eval_shape(state, self.dataset, first, **self.options)
        return set(shapes[1])

    def position(self) -> str:
        """Nothing: the number of updates says it."""
        return ""

    def __call__(self, epoch: int, done: int, position: str) -> Iterator[Part]:
        del position
        order = shuffled(self.words, self.rows, epoch) if self.shuffle else self.rows
        size = self.updates * self.batch_size
        for first in range(done * self.batch_size, order.shape[-1], size):
            rows = order[..., first : first + size]

            def part(state: TrainState, rows: np.ndarray = rows) -> Any:
                order = sent(self.sharding, rows)
                given = (state, self.dataset, order)
                count = -(-rows.shape[-1] // self.batch_size)
                return *keeping_epoch(*given, **self.options), count

            yield part


class Batches:
    """The parts of an epoch over batches that a function makes."""

    def __init__(
        self,
        dataset: Callable[[int], Iterable[Batch]],
        updates: int | None,
        sharding: NamedSharding | None,
        options: Any,
    ) -> None:
        self.dataset, self.updates = dataset, updates
        self.options = {**options, "sharding": sharding}
        self.batches: Any = None  # of the epoch that is going on
        self.ahead: _Counted | None = None  # those of its next part

    def names(self, state: TrainState) -> set[str] | None:
        """Of the means of the next batch; None before an epoch, and without one."""
        first = self.ahead.peeked() if self.ahead else []
        if not first:
            return None
        key = self.options["noise_key"]
        noise = [] if key is None else [key]
        loss = functools.partial(returned_by, self.options["loss_fn"])
        return set(jax.eval_shape(loss, state.params, *first, *noise)[1])

    def position(self) -> str:
        """Where the batches stand, as JSON; empty where they cannot say it."""
        read = getattr(self.batches, "get_state", None)
        if read is None:
            return ""
        state = read()
        is_bytes = isinstance(state, bytes)
        return json.dumps({"bytes": state.decode()} if is_bytes else {"state": state})

    def __call__(self, epoch: int, done: int, position: str) -> Iterator[Part]:
        made = self.dataset(epoch)
        check_batches(made)
        self.batches = batches = iter(made)
        if position and hasattr(batches, "set_state"):
            state = json.loads(position)
            at = state["state"] if "state" in state else state["bytes"].encode()
            self.batches.set_state(at)
        else:
            collections.deque(itertools.islice(batches, done), maxlen=0)
        while True:
            self.ahead = counted = _Counted(itertools.islice(batches, self.updates))
            if done and not counted.peeked():
                return

            def part(state: TrainState, counted: "_Counted" = counted) -> Any:
                # A copy, as it will be used up.
                new, means = train_batches(_copied(state), counted, **self.options)
                return new, means, None, counted.number

            yield part
            done += counted.number
            if self.updates is None:
                return


def _copied(state: TrainState) -> TrainState:
    if all(x.is_fully_addressable for x in jax.tree.leaves(state)):
        return jax.device_put(state, may_alias=False)
    return _copied_by_all(state)


@jax.jit
def _copied_by_all(state: TrainState) -> TrainState:
    """Where other processes have a part of it, they all must do it together."""
    return jax.tree.map(jnp.copy, state)


class _Counted:
    """An iterator that counts what was taken from it."""

    def __init__(self, of: Iterator[Any]) -> None:
        self.of, self.number = of, 0

    def peeked(self) -> list[Any]:
        """The first one, which stays; none of an iterator that is empty."""
        first = list(itertools.islice(self.of, 1))
        self.of = itertools.chain(first, self.of)
        return first

    def __iter__(self) -> Iterator[Any]:
        for one in self.of:
            self.number += 1
            yield one


def shuffled(
    words: UInt32[np.ndarray, "*models words"],
    rows: Int[np.ndarray, "*models rows"],
    epoch: int,
) -> Int[np.ndarray, "*models rows"]:
    """The rows in the order to visit in this epoch; one order per key.

    Drawn on the host, where a permutation compiles nothing.

    Args:
      words: `jax.random.key_data` of the key, or of one key per model.
      rows: of the dataset; those of each model in a row of their own.
      epoch: another one, another order.
    """
    if words.ndim > 1:
        models = zip(words, rows, strict=True)
        return np.stack([shuffled(*one, epoch) for one in models])
    return np.random.default_rng([*words, epoch]).permutation(rows)
