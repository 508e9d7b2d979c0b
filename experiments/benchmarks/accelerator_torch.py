"""How long does PyTorch take for the same? cuDNN's layers, and a training loop.

A part of `accelerator.py`, under the name torch; the shapes are those of `solvers` and
the training is that of `training`.

"forward" computes the outputs of all steps under `no_grad`; "gradient" the mean of
their squares, and `autograd.grad` of it with respect to all parameters and the inputs.
Inputs are time-major and lie on the device; float32 is computed as such but where the
record says tf32. PyTorch's layers have two biases where jaxrnn's have one.
"""

import importlib.util
from collections.abc import Callable

import accelerator_shapes as shapes
import numpy as np
from accelerator_part import Part, part_of_command_line, reason
from accelerator_shapes import Work
from timing import bursts, significant, summary

LAYERS = {"simple_rnn": "RNN", "gru": "GRU", "lstm": "LSTM"}
WORDS, EMBED = 10_000, 32


def main() -> None:
    part = part_of_command_line(__doc__)
    if importlib.util.find_spec("torch") is None:
        part.write(left_out=["everything: PyTorch is not installed"])
        return
    import torch

    torch.manual_seed(part.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    part.write(
        torch=torch.__version__,
        device=torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        cudnn=torch.backends.cudnn.version(),
    )

    def wait(_: object) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    jobs = [("float32", work) for work in shapes.EVERYTHING]
    jobs += [("training", sizes) for sizes in ((32, 500), (128, 100))]
    jobs += [("tf32", work) for work in shapes.SELECTION]
    jobs += [("float32", shapes.LONG[0]), ("bfloat16", shapes.SELECTION[2])]
    jobs += [("bfloat16", shapes.SELECTION[4]), ("float32", shapes.LONG[1])]
    if part.quick:
        jobs = [("float32", work) for work in shapes.TINY]
        jobs += [("tf32", shapes.TINY[0]), ("training", (2, 5))]
    repeats = 2 if part.quick else 7
    for kind, what in part.while_time(jobs, needs_s=2):
        print(kind, what, flush=True)
        set_tf32(torch, kind == "tf32")
        try:
            if kind == "training":
                time_training(part, torch, device, wait, what, 3 if part.quick else 50)
            else:
                time_layer(part, torch, device, wait, kind, what, repeats)
        except RuntimeError as error:  # what cuDNN cannot do stops no other
            part.write(kind=kind, what=str(what), **reason(error))


def set_tf32(torch, allowed: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def time_layer(
    part: Part, torch, device, wait: Callable, kind: str, work: Work, repeats: int
) -> None:
    """Forward and gradient of one layer."""
    shape = work.shape
    dtype = torch.bfloat16 if kind == "bfloat16" else torch.float32
    layer = getattr(torch.nn, LAYERS[work.cell])(shape.in_features, shape.features)
    layer = layer.to(device=device, dtype=dtype)
    inputs = torch.randn(shape.time, shape.batch, shape.in_features)
    inputs = inputs.to(device=device, dtype=dtype).requires_grad_()
    variables = [*layer.parameters(), inputs]

    def forward():
        with torch.no_grad():
            return layer(inputs)[0]

    def gradient():
        loss = (layer(inputs)[0] ** 2).mean()
        return loss, torch.autograd.grad(loss, variables)

    runs = {"forward": forward, "gradient": gradient}
    for run, ms in bursts(runs, repeats, wait=wait).items():
        part.write(
            cell=work.cell,
            **shape._asdict(),
            dtype="bfloat16" if kind == "bfloat16" else "float32",
            precision="default" if kind == "tf32" else "highest",
            competitor="PyTorch",
            run=run,
            **summary(ms),
            us_per_step=significant(1e3 * float(np.median(ms)) / shape.time),
        )


def time_training(
    part: Part, torch, device, wait: Callable, sizes: tuple[int, int], updates: int
) -> None:
    """Embedding, RNN(32), Linear(1), Adam: PyTorch's usual loop over batches."""
    nn = torch.nn
    batch, time = sizes

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(WORDS, EMBED)
            self.recurrent = nn.RNN(EMBED, 32, batch_first=True)
            self.head = nn.Linear(32, 1)

        def forward(self, ids):
            return self.head(self.recurrent(self.embed(ids))[0][:, -1])[:, 0]

    model = Model().to(device)
    ids = torch.randint(WORDS, (updates, batch, time), device=device)
    targets = torch.randint(2, (updates, batch), device=device).float()
    optimizer = torch.optim.Adam(model.parameters(), 0.001)
    loss_fn = nn.functional.binary_cross_entropy_with_logits

    def epoch():
        for i in range(updates):
            optimizer.zero_grad(set_to_none=True)
            loss = loss_fn(model(ids[i]), targets[i])
            loss.backward()
            optimizer.step()
        return loss

    ms = bursts({0: epoch}, 3, wait=wait)[0]
    part.write(
        model={(32, 500): "imdb-001", (128, 100): "imdb-002"}.get(sizes, "tiny"),
        models=1,
        competitor="PyTorch",
        us_per_update_of_one=significant(1e3 * float(np.median(ms)) / updates),
        **summary(ms),
        batch_size=batch,
        updates=updates,
    )


if __name__ == "__main__":
    main()
