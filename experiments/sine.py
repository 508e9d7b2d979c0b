"""Does an RNN forecast a noisy sine better than a moving average?

Command    python experiments/sine.py --seeds 3
Time       about 10 seconds on 2 cores, most of it start-up and compilation
Expect     test MSE 0.10 to 0.12 in the tutorial's layout, where the recurrent
           kernel never moves; the noise alone has 0.0833

The tutorial gives the network one time step of four features, (examples, 1, 4). From
a zero carry the recurrent kernel then multiplies zeros, at the first step and the
last: its gradient is zero and the "RNN" is a dense layer. The other layout,
(examples, 4, 1), has four time steps of one feature, and the kernel learns. All seeds
train at once, by `jax.vmap`, each on a series of its own.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import report
import tyro
from program_cache import keep_programs

import jaxrnn
from jaxrnn import data, files, logs

OUT = pathlib.Path("runs")
KERAS = pathlib.Path(__file__).parent / "results" / "keras.jsonl"
RESULTS = ["train_mse", "test_mse", "next_value", "recurrent_kernel_moved"]
COLUMNS = {
    "train MSE": "train_mse",
    "test MSE": "test_mse",
    "next value": "next_value",
    "recurrent kernel moved by": "recurrent_kernel_moved",
}
LAYOUTS = {
    "(N, 1, 4), the tutorial's": data.window_as_features,
    "(N, 4, 1), steps in time": data.window_as_time,
}


def main(
    *,
    seeds: int = 3,
    epochs: int = 50,
    batch_size: int = 16,
    length: int = 2000,
    train_length: int = 900,
    step: int = 4,
    features: int = 32,
    hidden_features: int = 8,
    learning_rate: float = 0.001,
    out: pathlib.Path = OUT,
) -> list[dict]:
    """Trains on `seeds` series in both layouts; writes sine.jsonl and sine.png."""
    model = jaxrnn.Forecaster(
        jaxrnn.SimpleRNN(features, activation=jax.nn.relu),
        hidden_features=hidden_features,
    )
    optimizer = jaxrnn.keras_rmsprop(learning_rate)

    def forecast(params, inputs):
        return model.apply({"params": params}, inputs)

    def loss_fn(params, batch):
        values = forecast(params, batch.inputs)
        return jaxrnn.squared_error_loss(values, batch.targets, batch.sample_weight)

    def values_and_mse(params, part):
        values = forecast(params, part.inputs)
        return values, jnp.mean((values - part.targets) ** 2)

    series = [
        data.sine_series(length, rng=np.random.default_rng(seed))
        for seed in range(seeds)
    ]
    keys = jax.vmap(jax.random.key)(np.arange(seeds))
    records, curves = [], {}
    for name, layout in LAYOUTS.items():
        parts = [
            data.sine_datasets(s, layout=layout, train_length=train_length, step=step)
            for s in series
        ]
        train, test = jax.tree.map(lambda *arrays: np.stack(arrays), *parts)
        # For `fit` one dataset of all series, of which each model trains on its own
        together = jax.tree.map(np.concatenate, train)
        rows = np.arange(seeds * train_length).reshape(seeds, train_length)

        def init_fn(key, inputs=together.inputs[:1]):
            return model.init(key, inputs)["params"]

        before = jaxrnn.create_train_state(init_fn, optimizer, keys)
        with logs.progress_bar(epochs, f"{name}, {seeds} seeds") as progress:
            state, history = jaxrnn.fit(
                before,
                together,
                loss_fn=loss_fn,
                optimizer=optimizer,
                key=keys,
                epochs=epochs,
                batch_size=batch_size,
                rows=rows,
                over=jax.vmap,
                on_epoch=progress,
            )

        of_all = jax.jit(jax.vmap(values_and_mse))  # each model on its own series
        (train_values, train_mse), (test_values, test_mse) = jax.device_get(
            [of_all(state.params, part) for part in (train, test)]
        )
        kernel, kernel_before = jax.device_get(
            [s.params["recurrent"]["recurrent_kernel"] for s in (state, before)]
        )
        for seed, (_, own_test) in enumerate(parts):
            records.append(
                {
                    "experiment": "sine",
                    "layout": name,
                    "seed": seed,
                    "parameters": sum(p[0].size for p in jax.tree.leaves(state.params)),
                    "train_mse": train_mse[seed],
                    "test_mse": test_mse[seed],
                    "next_value": test_values[seed, -1],
                    "recurrent_kernel_moved": abs(kernel - kernel_before)[seed].max(),
                    "first_epoch_s": progress.first_epoch_s,
                    "epoch_s": progress.epoch_s and progress.epoch_s / seeds,
                    **baselines(own_test),
                }
            )
        first_forecast = np.concatenate([train_values[0], test_values[0]])
        curves[name] = series[0], first_forecast, history["loss"][:, 0]

    files.write_json_lines(out / "sine.jsonl", records)
    draw(curves, out / "sine.png", train_length, step)
    print(report.markdown_table(summary(records)))
    return records


def baselines(test: data.Dataset) -> dict[str, float]:
    """What needs no training: the last value, the mean of the window, the noise."""
    windows = test.inputs.reshape(len(test.inputs), -1)
    return {
        "persistence_mse": float(np.mean((windows[:, -1] - test.targets) ** 2)),
        "window_mean_mse": float(np.mean((windows.mean(axis=1) - test.targets) ** 2)),
        "noise_mse": 1 / 12,
    }


def summary(records: list[dict]) -> list[dict]:
    """One row per layout, per baseline, and for Keras and the tutorial's text."""

    def row(forecast, runs, keys):
        cells = {"forecast": forecast}
        for column, key in COLUMNS.items():
            known = key in keys
            cells[column] = (
                report.mean_and_spread([r[key] for r in runs]) if known else ""
            )
        return cells

    rows = [
        row(f"SimpleRNN {name}", [r for r in records if r["layout"] == name], RESULTS)
        for name in LAYOUTS
    ]
    keras = [r for r in files.read_json_lines(KERAS) if r["experiment"] == "sine"]
    rows.append(row("Keras, the tutorial's layout", keras, RESULTS[:3]))
    rows.append(row("the tutorial's text", [{"next_value": 0.7758928}], RESULTS[2:3]))
    for name, key in (
        ("the last value", "persistence_mse"),
        ("the mean of the window", "window_mean_mse"),
        ("perfect knowledge of the sine", "noise_mse"),
    ):
        runs = [{"test_mse": r[key]} for r in records]
        rows.append(row(name, runs, ["test_mse"]))
    return rows


def draw(curves: dict, path: pathlib.Path, train_length: int, step: int) -> None:
    """The series of the first seed with both forecasts, and the loss by epoch."""
    figure, panels = report.new_figure(2, width=7)
    series = next(iter(curves.values()))[0]  # the same in both layouts
    panels[0].plot(series, ".", color="0.75", markersize=4, label="series")
    for color, (name, (_, forecast, losses)) in zip(
        (report.BLACK, report.BLUE),
        curves.items(),
        strict=True,  # one never recurs
    ):
        steps = np.arange(len(series))
        panels[0].plot(steps + step, forecast, color=color, linewidth=1.2, label=name)
        panels[1].plot(np.arange(1, len(losses) + 1), losses, color=color, label=name)
    panels[0].axvline(train_length, color="0.3", linestyle=":", label="test from here")
    panels[0].set(xlabel="t", ylabel="value", ylim=(-1.1, 3.4))
    panels[0].set_title("the next value, forecast from the four before it")
    panels[0].legend(
        loc="upper center", ncols=2, fontsize="small", frameon=True, edgecolor="white"
    )
    panels[1].axhline(1 / 12, color="0.3", linestyle=":", label="noise, 1/12")
    panels[1].set(xlabel="epoch", ylabel="training MSE", title="training")
    panels[1].legend()
    report.save_figure(figure, path)


if __name__ == "__main__":
    keep_programs()
    tyro.cli(main)
