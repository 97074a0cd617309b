"""Small models of every kind that is to be measured, each with a loss and probe data; shared by the tests."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

N, CLASSES = 6, 3


@dataclass(frozen=True)
class Specimen:
    build: Callable[[], nn.Module]
    data: Callable[[], Any]
    loss_fn: Callable[..., Any] | None = F.cross_entropy
    options: dict[str, Any] = field(default_factory=dict)
    float64: bool = True  # whether the model runs in float64 as a whole


def points(dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(N, 4, generator=generator, dtype=dtype), torch.randint(CLASSES, (N,), generator=generator)


def images():
    generator = torch.Generator().manual_seed(2)
    return torch.randn(N, 1, 6, 6, generator=generator), torch.randint(CLASSES, (N,), generator=generator)


def sequences():
    generator = torch.Generator().manual_seed(3)
    return torch.randn(N, 3, 4, generator=generator), torch.randint(CLASSES, (N,), generator=generator)


def tokens():
    generator = torch.Generator().manual_seed(4)
    return torch.randint(7, (N, 4), generator=generator), torch.randint(CLASSES, (N,), generator=generator)


def texts():
    ids = tokens()[0]
    return {"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)}


def mlp():
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, CLASSES))


def convolutional(norm):
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2),
        norm(),
        nn.Tanh(),
        nn.Conv2d(4, 4, 2, groups=2),
        nn.Flatten(),
        nn.Linear(4, CLASSES),
    )


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 3, 3, bias=False)
        self.first = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(3)
        self.second = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(3)
        self.head = nn.Linear(3, CLASSES)

    def forward(self, x):
        x = self.stem(x)
        inner = F.softplus(self.first_norm(self.first(x)))
        x = F.softplus(x + self.second_norm(self.second(inner)))
        return self.head(x.mean((2, 3)))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.lstm = nn.LSTM(4, 5, batch_first=True)
        self.head = nn.Linear(5, CLASSES)

    def forward(self, ids):
        return self.head(self.lstm(self.embedding(ids))[0][:, -1])


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, 2, dim_feedforward=6, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x):
        return self.head(self.encoder(x).mean(1))


class TiedGPT(nn.Module):
    """A decoder by hand: fused attention, a head that shares the embedding, the loss among what it returns."""

    def __init__(self):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(7, 4), nn.Embedding(4, 4)
        self.ln, self.qkv, self.project = nn.LayerNorm(4), nn.Linear(4, 12), nn.Linear(4, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.wte.weight

    def forward(self, input_ids, labels, attention_mask):
        x = self.wte(input_ids) + self.wpe(torch.arange(input_ids.shape[1]))
        q, k, v = (part.unflatten(-1, (2, 2)).transpose(1, 2) for part in self.qkv(self.ln(x)).chunk(3, dim=-1))
        x = x + self.project(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        logits = self.head(x)
        return {"loss": F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()), "logits": logits}


class PartlyFrozen(nn.Module):
    def __init__(self):
        super().__init__()
        self.frozen, self.used = nn.Linear(4, 5).requires_grad_(False), nn.Linear(5, CLASSES)
        self.unused = nn.Linear(3, 3)

    def forward(self, x):
        return self.used(torch.tanh(self.frozen(x)))


class SharedTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.head = nn.Linear(4, 4), nn.Linear(4, CLASSES)

    def forward(self, x):
        return self.head(torch.tanh(self.inner(torch.tanh(self.inner(x)))))


class TwoDtypes(nn.Module):
    def __init__(self, body, head):
        super().__init__()
        self.body, self.head = nn.Linear(4, 6).to(body), nn.Linear(6, CLASSES).to(head)

    def forward(self, x):
        hidden = torch.tanh(self.body(x.to(self.body.weight.dtype)))
        return self.head(hidden.to(self.head.weight.dtype))


class Returning(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind, self.body = kind, mlp()

    def forward(self, x):
        f = self.body(x)
        return {"hidden": x, "scores": f} if self.kind == "dict" else (f, x)


def small_gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=7, n_positions=4, n_embd=4, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    return GPT2LMHeadModel(config)


MODELS = {
    "mlp": Specimen(mlp, points),
    "cnn with batch norm": Specimen(lambda: convolutional(lambda: nn.BatchNorm2d(4)), images),
    "cnn with group norm": Specimen(lambda: convolutional(lambda: nn.GroupNorm(2, 4)), images),
    "residual": Specimen(Residual, images),
    "lstm": Specimen(Recurrent, tokens),
    "transformer": Specimen(Transformer, sequences),
    "gpt with tied weights": Specimen(TiedGPT, texts, loss_fn=None),
    "transformers gpt2": Specimen(small_gpt2, texts, loss_fn=None),
    "frozen and unused parameters": Specimen(PartlyFrozen, points),
    "module used twice": Specimen(SharedTwice, points),
    "float64 head": Specimen(lambda: TwoDtypes(torch.float32, torch.float64), points),
    "bfloat16 body": Specimen(lambda: TwoDtypes(torch.bfloat16, torch.float32), points),
    "returns a dict": Specimen(
        lambda: Returning("dict"),
        points,
        lambda returned, y: F.cross_entropy(returned["scores"], y),
        {"outputs": lambda returned: returned["scores"]},
    ),
    "returns a tuple": Specimen(
        lambda: Returning("tuple"), points, lambda returned, y: F.cross_entropy(returned[0], y)
    ),
}


def built(name):
    """The model with generic weights and batch statistics, and gradients and a mode that nothing may change."""
    torch.manual_seed(0)
    model = MODELS[name].build()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.3 * torch.randn(p.shape, generator=generator).to(p.dtype)
        for label, b in model.named_buffers():
            if label.endswith(("running_mean", "running_var")):
                b.uniform_(0.5, 1.5, generator=generator)
    for number, p in enumerate(model.parameters()):
        if p.requires_grad and number % 2:
            p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)
    model.train()
    return model


@cache
def reference(name):
    """Risk, gradient, Hessian, Gauss-Newton matrix and per-example gradients in float64, by torch.func."""
    return dense(built(name), MODELS[name])


def dense(model, specimen, mode="eval"):
    model = model.double().train(mode == "train")
    free = {label: p.detach() for label, p in model.named_parameters() if p.requires_grad}
    rest = {label: t.detach() for label, t in (*model.named_parameters(), *model.named_buffers()) if label not in free}
    sizes, shapes = [p.numel() for p in free.values()], [p.shape for p in free.values()]
    data = specimen.data()

    def returned(theta, rows=slice(None)):
        parts = (t.reshape(shape) for t, shape in zip(theta.split(sizes), shapes, strict=True))
        tensors = {**rest, **dict(zip(free, parts, strict=True))}
        tensors = {label: t.clone() if label in rest else t for label, t in tensors.items()}
        if isinstance(data, dict):
            return torch.func.functional_call(model, tensors, (), {k: v[rows] for k, v in data.items()})
        x = data[0][rows]
        return torch.func.functional_call(model, tensors, (x.double() if x.is_floating_point() else x,))

    def risk(theta, rows=slice(None)):
        out = returned(theta, rows)
        return out["loss"] if specimen.loss_fn is None else specimen.loss_fn(out, data[1][rows])

    def pick(out):
        if "outputs" in specimen.options:
            return specimen.options["outputs"](out)
        return out["logits"] if isinstance(out, dict) else out[0] if isinstance(out, tuple) else out

    def outputs(theta):
        return pick(returned(theta)).reshape(N, -1)

    def loss_of(f):
        if specimen.loss_fn is None:
            logits = f.reshape(N, 4, 7)
            return F.cross_entropy(logits[:, :-1].flatten(0, 1), data["labels"][:, 1:].flatten())
        return F.cross_entropy(f, data[1])

    theta = torch.cat([p.reshape(-1) for p in free.values()])
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        free_theta = theta.clone().requires_grad_()
        gradient = torch.autograd.grad(risk(free_theta), free_theta, create_graph=True)[0]
        units = torch.eye(len(theta), dtype=theta.dtype)
        hessian = torch.stack([torch.autograd.grad(gradient, free_theta, u, retain_graph=True)[0] for u in units])
        f = outputs(free_theta)
        rows = [torch.autograd.grad(one, free_theta, retain_graph=True)[0] for one in f.reshape(-1)]
        jacobian = torch.stack(rows)
        bent = torch.autograd.functional.hessian(loss_of, f.detach()).reshape(f.numel(), f.numel())
        singles = [torch.func.grad(lambda t, i=i: risk(t, slice(i, i + 1)))(theta) for i in range(N)]
    return {
        "theta": theta.numpy(),
        "risk": float(gradient.new_tensor(float(risk(theta)))),
        "gradient": gradient.detach().numpy(),
        "hessian": hessian.numpy(),
        "gauss_newton": (jacobian.T @ bent @ jacobian).numpy(),
        "outputs": f.detach().numpy(),
        "rows": torch.stack(singles).numpy(),
    }
