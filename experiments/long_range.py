"""How far back can each cell remember, and how far back does its gradient reach?

Command    python experiments/long_range.py --seeds 3
Time       about 3 minutes on 2 cores
Expect     SimpleRNN with tanh solves length 25 alone; with ReLU and the identity up to
           100, and explodes on 200 in one or two of three runs; GRU all lengths in 400
           to 900 updates, LSTM all in 600 to 3,800

The adding problem: a sequence of numbers between 0 and 1, two of them marked, one in
each half; the target is the sum of the two. Always answering 1 gives an MSE of 1/6, the
variance of the sum. A model trains until it has solved the problem, with a mean squared
error below 0.01 over one epoch of sequences that nobody has seen before, or for
`epochs` of `updates`. The test MSE is that of the parameters where it stopped. Both
SimpleRNNs amplify rounding: another machine or version of JAX gives them other curves.
All seeds of a cell and length train in one program, one after the other on a CPU
(`jaxrnn.one_by_one`), where a model that has stopped costs nothing, and at the same
time on an accelerator (`jax.vmap`).

Models: SimpleRNN with tanh; with ReLU and the identity as its initial recurrent kernel
(the IRNN of Le, Jaitly and Hinton, A simple way to initialize recurrent networks of
rectified linear units, 2015, whose version of the problem this is); GRU; LSTM. Every
other initial value is Keras', so the recurrent kernels are orthogonal. The problem is
from Hochreiter and Schmidhuber, Long short-term memory, 1997.

And the vanishing gradient as a picture: the norm of dh_T / dcarry_t, of the last hidden
vector by the carry of every step t, before and after training (`hidden_jacobians`). Two
things there are not what is often told. Gates do not keep the gradient at the start:
100 steps back a GRU's has shrunk to 1e-20 and an LSTM's to 1e-8, as their gates begin
half open, while tanh with an orthogonal kernel is at 1e-4. But a gate can learn to stay
open, and after training both are near 1; tanh has shrunk to less than it began with.
And what an LSTM keeps is in its memory: by h_t alone, c_t held fixed, the norm is near
0.01 most of the way.
"""

import functools
import pathlib

import flax.linen as nn
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from program_cache import keep_programs

import jaxrnn
from jaxrnn import data, metrics, report

OUT = pathlib.Path("runs")
BASELINE_MSE, SOLVED_MSE = 1 / 6, 0.01


def identity(key, shape, dtype):
    """The initial recurrent kernel of an IRNN."""
    del key
    return jnp.eye(*shape, dtype=dtype)


IRNN = functools.partial(
    jaxrnn.SimpleRNN, activation=jax.nn.relu, recurrent_kernel_init=identity
)
LAYERS = {
    "SimpleRNN, tanh": jaxrnn.SimpleRNN,
    "SimpleRNN, ReLU, identity": IRNN,
    "GRU": jaxrnn.GRU,
    "LSTM": jaxrnn.LSTM,
}
LEARNING_RATES = {"SimpleRNN, ReLU, identity": 0.001}  # the IRNN explodes with more
COLORS = dict(
    zip(LAYERS, ("tab:blue", "tab:orange", "tab:green", "tab:red"), strict=True)
)


class Adder(nn.Module):
    """A recurrent layer -> Dense: one number per sequence.

    Attributes:
      recurrent: a layer that returns its last output.
    """

    recurrent: nn.Module

    @nn.compact
    def __call__(self, inputs):
        """Takes inputs (batch, time, 2); returns (batch,)."""
        head = nn.Dense(1, kernel_init=nn.initializers.glorot_uniform())
        return head(self.recurrent(inputs))[:, 0]


def main(
    *,
    seeds: int = 3,
    lengths: tuple[int, ...] = (25, 50, 100, 200),
    epochs: int = 40,
    updates: int = 100,
    batch_size: int = 32,
    features: int = 32,
    learning_rate: float = 0.005,
    max_norm: float = 1.0,
    gradient_length: int = 100,
    gradient_sequences: int = 16,
    out: pathlib.Path = OUT,
) -> list[dict]:
    """Trains every cell on every length; writes long_range.* and gradient_norms.*.

    Args:
      seeds: models to train per cell and length.
      lengths: of the sequences.
      epochs: of `updates` each, at most.
      updates: per epoch, each from sequences that were never seen before.
      batch_size: sequences per update.
      features: of the recurrent layer.
      learning_rate: of Adam; `LEARNING_RATES` has exceptions.
      max_norm: of the gradient of all parameters together; longer ones are cut.
      gradient_length: one of `lengths`, for whose models the norms are measured.
      gradient_sequences: over which the median of the norms is taken.
      out: where results go.
    """
    if gradient_length not in lengths:
        raise ValueError(
            f"gradient_length must be one of the lengths {lengths}, got "
            f"{gradient_length}; its models are those whose norms are measured."
        )
    test_key, norm_key = jax.random.split(jax.random.key(1997))  # no model's seed
    over = jaxrnn.one_by_one if jax.default_backend() == "cpu" else jax.vmap
    records, gradient_norms = [], []
    for name, layer in LAYERS.items():
        model = Adder(layer(features))
        cell = layer(features).make_cell()
        optimizer = optax.chain(
            optax.clip_by_global_norm(max_norm),
            jaxrnn.adam(LEARNING_RATES.get(name, learning_rate)),
        )

        def loss_fn(params, batch, model=model):
            error = (model.apply({"params": params}, batch.inputs) - batch.targets) ** 2
            loss = jaxrnn.Mean.of(error, batch.sample_weight)
            return loss.value, {"loss": loss}

        def start(seed, inputs, model=model, optimizer=optimizer):
            key = jax.random.key(seed)
            params = model.init(key, inputs)["params"]
            return key, jaxrnn.init_state(params, optimizer)

        # One program, not one for every operation in it
        start_all = jax.jit(jax.vmap(start, in_axes=(0, None)))
        for length in lengths:
            test = adding_problem(test_key, examples=1000, length=length)
            sequences = adding_problem(norm_key, gradient_sequences, length).inputs
            keys, before = start_all(np.arange(seeds), test.inputs[:1])
            with report.progress_bar(epochs, f"{name}, {length}") as progress:
                trained, losses = train(
                    before,
                    keys,
                    length=length,
                    loss_fn=loss_fn,
                    optimizer=optimizer,
                    epochs=epochs,
                    updates=updates,
                    batch_size=batch_size,
                    over=over,
                    on_epoch=progress,
                )
            means = jaxrnn.evaluate(trained.params, test, loss_fn=loss_fn, over=over)
            test_mse = metrics.values(means)["loss"].tolist()
            epochs_run = max(map(len, losses))
            ran = [sum(len(x) > epoch for x in losses) for epoch in range(epochs_run)]
            seconds = np.diff(progress.ended) / ran  # per model that had not stopped
            stages = jax.device_get(
                {"at the start": before.params, "trained": trained.params}
            )
            for seed in range(seeds):
                run = {"model": name, "length": length, "seed": seed}
                mse = test_mse[seed]
                records.append(
                    {
                        "experiment": "long_range",
                        **run,
                        "parameters": sum(
                            p[0].size for p in jax.tree.leaves(before.params)
                        ),
                        "test_mse": mse if mse < 1 else None,  # None: it exploded
                        "solved_after": updates * len(losses[seed])
                        if losses[seed][-1] < SOLVED_MSE
                        else None,
                        "loss": [x if np.isfinite(x) else None for x in losses[seed]],
                        "first_epoch_s": seconds[0],
                        "epoch_s": np.median(seconds[1:]) if len(seconds) > 1 else None,
                    }
                )
                if length != gradient_length:
                    continue
                for when, of_all in stages.items():
                    params = jax.tree.map(lambda x, i=seed: x[i], of_all["recurrent"])
                    by_carry, by_hidden = median_norms(params, sequences, cell)
                    gradient_norms.append(
                        {
                            "experiment": "gradient_norms",
                            **run,
                            "when": when,
                            "by_carry": by_carry,
                            "by_hidden": by_hidden,
                        }
                    )

    report.write_records(out / "long_range.jsonl", records)
    report.write_records(out / "gradient_norms.jsonl", gradient_norms)
    draw_errors(records, epochs * updates, out / "long_range.png")
    draw_norms(gradient_norms, out / "gradient_norms.png")
    print(report.markdown_table(summary(records)))
    print(f"\nNorm of dh_T / dcarry_t, T = {gradient_length}:\n")
    print(report.markdown_table(norm_summary(gradient_norms)))
    return records


# The problem and the training.


@functools.partial(jax.jit, static_argnames=("examples", "length"))
def adding_problem(key, examples: int, length: int) -> data.Dataset:
    """Sequences of (number, mark), and the sums of the two marked numbers.

    Args:
      key: a `jax.random.key`.
      examples: sequences to draw.
      length: of each, at least 2; one mark falls in each half.

    Returns:
      Inputs (examples, length, 2), numbers uniform in [0, 1), marks 0 or 1; targets
      (examples,).
    """
    number_key, first_key, second_key = jax.random.split(key, 3)
    numbers = jax.random.uniform(number_key, (examples, length))
    first = jax.random.randint(first_key, (examples,), 0, length // 2)
    second = jax.random.randint(second_key, (examples,), length // 2, length)
    marks = jax.nn.one_hot(first, length) + jax.nn.one_hot(second, length)
    return data.Dataset(
        jnp.stack([numbers, marks], axis=-1), (numbers * marks).sum(axis=1)
    )


def train(
    state,
    keys,
    *,
    length,
    loss_fn,
    optimizer,
    epochs,
    updates,
    batch_size,
    over,
    on_epoch,
):
    """Trains each model until it has solved the problem, exploded, or had all epochs.

    The loss of an epoch is a test loss too: no update has seen its sequences before.

    Args:
      state: of all models, with a leading axis of models; it stays usable.
      keys: one per model, from which its sequences are drawn.
      length: of the sequences.
      loss_fn: `(params, batch) -> (loss, {"loss": Mean})`.
      optimizer: an Optax transformation.
      epochs: at most.
      updates: per epoch.
      batch_size: sequences per update.
      over: `jaxrnn.one_by_one` or `jax.vmap`.
      on_epoch: `(epoch, record) -> None` after every epoch.

    Returns:
      The state of all models, each as it stopped; and the losses of each by epoch, in
      lists of different lengths.
    """
    examples = updates * batch_size

    @jax.jit
    def one_epoch(state, keys, running, epoch):
        def one(state, key, running):
            def go_on(state):
                unseen = adding_problem(
                    jax.random.fold_in(key, epoch), examples, length
                )
                state, means = jaxrnn.train_epoch(
                    state,
                    unseen,
                    jnp.arange(examples),
                    loss_fn=loss_fn,
                    optimizer=optimizer,
                    batch_size=batch_size,
                )
                return state, means["loss"].value

            def rest(state):
                return state, jnp.float32(jnp.nan)

            return jax.lax.cond(running, go_on, rest, state)

        return over(one)(state, keys, running)

    running = np.ones(len(keys), bool)
    losses = [[] for _ in keys]
    for epoch in range(epochs):
        state, loss = one_epoch(state, keys, running, epoch)
        loss = np.asarray(loss)
        on_epoch(epoch, {"loss": loss[running]})
        for model in np.flatnonzero(running):
            losses[model].append(loss[model].item())
        running &= np.isfinite(loss) & (loss >= SOLVED_MSE)
        if not running.any():
            break
    return state, losses


# How far the gradient reaches.


def hidden_jacobians(cell: jaxrnn.Cell, params, inputs) -> jax.Array:
    """dh_T / dcarry_t for every step t of one sequence, the initial carry included.

        dh_T / dcarry_t = dh_T / dcarry_T  J_T  J_{T-1} ...  J_{t+1}
        J_s = dcarry_s / dcarry_{s-1}, the Jacobian of one step

    This is what backpropagation through time multiplies a gradient by on its way from
    the last step to step t. All that step t tells the future is in its carry, so the
    derivative is by the whole carry: by (h_t, c_t) for an LSTM, whose first `features`
    columns are the derivative by h_t with c_t held fixed.

    Args:
      cell: such as `jaxrnn.lstm`.
      params: of the cell.
      inputs: (time, in_features).

    Returns:
      (time + 1, features, size of the carry); entry t belongs to the carry after t
      steps, the last is dh_T / dcarry_T.
    """
    carry, unravel = jax.flatten_util.ravel_pytree(cell.initial_carry(params, ()))

    def step(carry, projected):
        carry = cell.step(params, unravel(carry), projected)
        return jax.flatten_util.ravel_pytree(carry)[0]

    def forward(carry, projected):
        return step(carry, projected), jax.jacrev(step)(carry, projected)

    def backward(later, jacobian):
        earlier = later @ jacobian
        return earlier, earlier

    carry, jacobians = jax.lax.scan(forward, carry, cell.project(params, inputs))
    last = jax.jacrev(lambda carry: cell.output(unravel(carry)))(carry)
    _, earlier = jax.lax.scan(backward, last, jacobians, reverse=True)
    return jnp.concatenate([earlier, last[None]])


@functools.partial(jax.jit, static_argnames="cell")
def median_norms(params, sequences, cell: jaxrnn.Cell):
    """Spectral norms of dh_T / dcarry_t and dh_T / dh_t, median over sequences.

    The spectral norm is the most that h_T can move per unit that the carry moves at t.

    Args:
      params: of the cell.
      sequences: (sequences, time, in_features).
      cell: whose carry has the hidden vector first.

    Returns:
      Two arrays (time + 1,).
    """

    def norms(inputs):
        jacobians = hidden_jacobians(cell, params, inputs)
        by_hidden = jacobians[..., : jacobians.shape[1]]
        return tuple(jnp.linalg.norm(j, 2, axis=(1, 2)) for j in (jacobians, by_hidden))

    return jax.tree.map(lambda x: jnp.median(x, axis=0), jax.lax.map(norms, sequences))


# What is reported.


def summary(records: list[dict]) -> list[dict]:
    """One row per model and length."""
    rows = []
    for name, length in dict.fromkeys((r["model"], r["length"]) for r in records):
        runs = [r for r in records if (r["model"], r["length"]) == (name, length)]
        errors = [r["test_mse"] for r in runs if r["test_mse"] is not None]
        solved = [float(r["solved_after"]) for r in runs if r["solved_after"]]
        seconds = [r["epoch_s"] for r in runs if r["epoch_s"]]
        rows.append(
            {
                "model": name,
                "length": length,
                "parameters": f"{runs[0]['parameters']:,}",
                "test MSE": report.mean_and_spread(errors, 4) if errors else "",
                "exploded": f"{len(runs) - len(errors)} of {len(runs)}",
                "solved": f"{len(solved)} of {len(runs)}",
                "updates to solve": report.mean_and_spread(solved, 0) if solved else "",
                "seconds per epoch": f"{np.median(seconds):.2f}" if seconds else "",
            }
        )
    baseline = {"model": "always 1", "test MSE": f"{BASELINE_MSE:.4f}"}
    return [*rows, dict.fromkeys(rows[0], "") | baseline]


def norm_summary(records: list[dict]) -> list[dict]:
    """One row per model and time of measuring: the norm some steps back."""
    rows = []
    for name, when in dict.fromkeys((r["model"], r["when"]) for r in records):
        runs = [r for r in records if (r["model"], r["when"]) == (name, when)]
        row = {"model": name, "": when}
        back = np.array([1, 10, 50, 100, 200])
        for steps in back[back < len(runs[0]["by_carry"])].tolist():
            norms = [float(r["by_carry"][-1 - steps]) for r in runs]
            low, high = min(norms), max(norms)
            row[f"{steps} back"] = f"{low:.1e} to {high:.1e}"
        rows.append(row)
    return rows


def draw_errors(records: list[dict], most_updates: int, path: pathlib.Path) -> None:
    """Test MSE and updates to solve, by the length of the sequences."""
    figure, panels = report.new_figure(2, width=5.5, height=4.4)
    lengths = sorted({r["length"] for r in records})
    for i, name in enumerate(LAYERS):
        x = np.array(lengths) * (0.97 + 0.02 * i)  # side by side, not in one place
        for panel, key, missing in (
            (panels[0], "test_mse", 1.0),
            (panels[1], "solved_after", np.inf),
        ):
            by_length = [
                [
                    missing if r[key] is None else r[key]
                    for r in records
                    if (r["model"], r["length"]) == (name, length)
                ]
                for length in lengths
            ]
            values = np.column_stack([np.median(by_length, axis=1), by_length])
            values[np.isinf(values)] = np.nan
            color = COLORS[name]
            panel.plot(x, values[:, 0], "-", color=color, label=name)
            panel.plot(x, values[:, 1:], "o", color=color, markersize=4, alpha=0.6)
    panels[0].axhline(BASELINE_MSE, color="0.4", linestyle="--", label="always 1")
    panels[0].axhline(SOLVED_MSE, color="0.4", linestyle=":", label="solved")
    panels[0].set(ylabel="test MSE", title="after training; 1: exploded", yscale="log")
    panels[1].set(
        ylabel="updates until solved",
        title=f"no point: not within {most_updates:,} updates",
        ylim=(0, 1.05 * most_updates),
    )
    for panel in panels:
        panel.set(xlabel="length of the sequences, time steps", xscale="log")
        panel.set_xlim(0.9 * lengths[0], 1.1 * lengths[-1])
        panel.set_xticks(lengths, labels=[str(length) for length in lengths])
        panel.xaxis.minorticks_off()
        panel.grid(alpha=0.3)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=6
    )
    figure.suptitle("The adding problem: median (line) and every seed (dots)")
    report.save_figure(figure, path)


def draw_norms(records: list[dict], path: pathlib.Path) -> None:
    """The norms by the number of steps back, before and after training."""
    figure, panels = report.new_figure(2, width=5.5, height=4.4)
    for panel, when in zip(panels, ("at the start", "trained"), strict=True):
        for name in LAYERS:
            runs = [r for r in records if (r["model"], r["when"]) == (name, when)]
            lines = [("by_carry", "-", name)]
            if name == "LSTM":
                lines.append(("by_hidden", "--", "LSTM, by h_t alone"))
            for key, style, label in lines:
                norms = np.array([r[key] for r in runs])[:, ::-1]  # from T back to 0
                norms = np.where(norms > 0, norms, np.nan)
                middle = np.median(norms, axis=0)
                steps = np.arange(len(middle))
                panel.plot(steps, middle, style, color=COLORS[name], label=label)
                panel.fill_between(
                    steps,
                    norms.min(axis=0),
                    norms.max(axis=0),
                    color=COLORS[name],
                    alpha=0.15,
                    linewidth=0,
                )
        panel.set(xlabel="steps back from the last, T - t", title=when, yscale="log")
    low = min(panel.get_ylim()[0] for panel in panels)
    high = max(panel.get_ylim()[1] for panel in panels)
    for panel in panels:
        panel.set_ylim(max(low, 1e-20), high)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("spectral norm of dh_T / dcarry_t")
    panels[0].legend(fontsize="small")
    figure.suptitle(
        f"How far back a gradient reaches, T = {records[0]['length']}: "
        "median and range over the seeds"
    )
    report.save_figure(figure, path)


if __name__ == "__main__":
    keep_programs()
    tyro.cli(main)
