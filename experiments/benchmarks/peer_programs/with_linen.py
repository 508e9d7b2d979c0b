"""flax.linen: `nn.RNN` of its cells, a jitted step with donated state, Optax."""

import functools

import flax.linen as nn
import jax
import on_jax
import optax
from on_jax import device as device
from workloads import LEARNING_RATE, Program, Work, Workload

CELLS = {"simple_rnn": nn.SimpleCell, "gru": nn.GRUCell, "lstm": nn.OptimizedLSTMCell}


class Model(nn.Module):
    """Embed -> RNN -> Dense, or RNN -> Dense -> Dense."""

    sizes: Workload

    @nn.compact
    def __call__(self, inputs):
        sizes = self.sizes
        if sizes.classifies:
            embed = nn.Embed(sizes.vocab_size, sizes.in_features, name="embed")
            inputs = embed(inputs)
        activation = nn.tanh if sizes.classifies else nn.relu
        cell = nn.SimpleCell(sizes.features, activation_fn=activation, name="cell")
        x = nn.RNN(cell)(inputs)[:, -1]
        if sizes.hidden_features is not None:
            x = nn.Dense(sizes.hidden_features, name="hidden")(x)
            x = nn.sigmoid(x) if sizes.classifies else nn.relu(x)
        return nn.Dense(1, name="head")(x)[:, 0]


def train(work: Work) -> Program:
    model = Model(work.sizes)
    optimizer = on_jax.OPTIMIZERS[work.sizes.optimizer](LEARNING_RATE)

    def loss_fn(params, inputs, targets):
        outputs = model.apply({"params": params}, inputs)
        return on_jax.mean_loss(work, outputs, targets)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def train_step(params, opt_state, inputs, targets):
        loss, gradients = jax.value_and_grad(loss_fn)(params, inputs, targets)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    params = work.weights
    if params is None:
        params = jax.jit(model.init)(jax.random.key(0), work.inputs[0, :1])["params"]
    params = jax.device_put(params)
    opt_state = optimizer.init(params)
    batches = on_jax.batches_of(work)

    def update(i):
        nonlocal params, opt_state
        params, opt_state, loss = train_step(params, opt_state, *batches[i])
        return loss

    def run(updates):
        for i in range(updates):
            update(i % len(batches))
        jax.block_until_ready(params)

    return Program(lambda i: [float(update(i))], run)


def predict(work: Work) -> Program:
    params = jax.device_put({"params": work.weights})
    return on_jax.predictions_of(Model(work.sizes).apply, params, work)


def gradient(work: Work) -> Program:
    layer = nn.RNN(CELLS[work.sizes.cell](work.sizes.features))

    def last_output(params, inputs):
        return layer.apply({"params": params}, inputs)[:, -1]

    return on_jax.gradients_of(last_output, jax.device_put(work.weights), work)
