"""PyTorch, eager: `nn.RNN`, gradients set to None, no number read within a block."""

import torch
import workloads
from torch import nn
from torch.nn import functional
from workloads import EPSILON, LEARNING_RATE, RMSPROP_DECAY, Program, Work, Workload

LAYERS = {"simple_rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
torch.set_flush_denormal(True)  # vanished gradients are slow; XLA does it by itself
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Model(nn.Module):
    """Embed -> RNN -> Dense, or RNN -> Dense -> Dense."""

    def __init__(self, sizes: Workload):
        super().__init__()
        self.classifies = sizes.classifies
        if sizes.classifies:
            self.embed = nn.Embedding(sizes.vocab_size, sizes.in_features)
        self.recurrent = nn.RNN(
            sizes.in_features,
            sizes.features,
            nonlinearity="tanh" if sizes.classifies else "relu",
            batch_first=True,
        )
        features = sizes.features
        self.hidden = None
        if sizes.hidden_features is not None:
            self.hidden = nn.Linear(features, sizes.hidden_features)
            features = sizes.hidden_features
        self.head = nn.Linear(features, 1)

    def forward(self, inputs):
        if self.classifies:
            inputs = self.embed(inputs)
        outputs, _ = self.recurrent(inputs)
        x = outputs[:, -1]
        if self.hidden is not None:
            x = self.hidden(x)
            x = torch.sigmoid(x) if self.classifies else torch.relu(x)
        return self.head(x)[:, 0]


def device() -> str:
    if DEVICE.type == "cuda":
        return torch.cuda.get_device_name()
    return f"cpu, {torch.get_num_threads()} threads"


def synchronize(*_) -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def tensors(arrays) -> torch.Tensor:
    values = torch.from_numpy(arrays).to(DEVICE)
    return values.long() if values.dtype == torch.int32 else values


def loaded(module: nn.Module, weights) -> nn.Module:
    if weights is not None:
        module.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()})
    return module.to(DEVICE)


def train(work: Work) -> Program:
    model = loaded(Model(work.sizes), work.weights)
    # It is 0: with both biases their sum would move twice as far as everybody's one.
    model.recurrent.bias_hh_l0.requires_grad_(False)
    inputs, targets = tensors(work.inputs), tensors(work.targets)
    if work.sizes.optimizer == "adam":
        optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE, eps=EPSILON)
    else:
        outside = EPSILON**0.5  # of the root, where PyTorch adds it
        optimizer = torch.optim.RMSprop(
            model.parameters(), LEARNING_RATE, alpha=RMSPROP_DECAY, eps=outside
        )
    loss_fn = functional.mse_loss
    if work.sizes.classifies:
        loss_fn = functional.binary_cross_entropy_with_logits

    def update(i):
        optimizer.zero_grad(set_to_none=True)
        loss = loss_fn(model(inputs[i]), targets[i])
        loss.backward()
        optimizer.step()
        return loss

    def run(updates):
        for i in range(updates):
            update(i % len(inputs))
        synchronize()

    return Program(lambda i: [update(i).item()], run)


def predict(work: Work) -> Program:
    model = loaded(Model(work.sizes), work.weights).eval()

    @torch.inference_mode()
    def predictions(inputs):
        outputs = model(inputs)
        return torch.sigmoid(outputs) if work.sizes.classifies else outputs

    def wait(outputs):
        return outputs.cpu().numpy()

    return workloads.passes(
        predictions, tensors(work.inputs), lambda p: workloads.first_four(wait(p)), wait
    )


def gradient(work: Work) -> Program:
    sizes = work.sizes
    layer = LAYERS[sizes.cell](sizes.in_features, sizes.features, batch_first=True)
    layer = loaded(layer, work.weights)
    variables = list(layer.parameters())

    def gradients(inputs):
        outputs, _ = layer(inputs)
        loss = (outputs[:, -1] ** 2).sum()
        return loss, *torch.autograd.grad(loss, [inputs, *variables])

    def check(result):
        loss, of_inputs, *of_params = (x.detach().cpu() for x in result)
        return workloads.norms(loss, [g for g in of_params if g.ndim == 2], of_inputs)

    inputs = [batch.requires_grad_() for batch in tensors(work.inputs)]
    return workloads.passes(gradients, inputs, check, synchronize)
