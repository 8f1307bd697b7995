"""Small transformers from their configurations, their data, and the truth about them by a double loop."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from seigh.core.analysis import analyse
from seigh.core.curvature.certificate import Float64, copied, in_float64
from seigh.core.names import Kind
from seigh.core.problems import architectures
from seigh.core.settings import AnalysisSettings, Precision

VOCABULARY = 11
TOKENS = 5

_USUAL: dict[str, Any] = {
    "hidden_size": 4,
    "intermediate_size": 6,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 6,
    "vocab_size": VOCABULARY,
}
_GPT2 = {"n_embd": 4, "n_head": 2, "n_layer": 1, "n_inner": 6, "n_positions": 6, "vocab_size": VOCABULARY}

# As ``config.json`` has them: dropout everywhere, and entries that decide nothing.
CONFIGS: Mapping[str, dict[str, Any]] = MappingProxyType(
    {
        "gpt2": _GPT2 | {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]},
        "gpt2-untied": _GPT2
        | {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "tie_word_embeddings": False},
        "llama": _USUAL
        | {
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "num_key_value_heads": 1,
            "attention_dropout": 0.2,
            "pad_token_id": 3,
            "rope_theta": 500.0,
        },
        "llama-tied": _USUAL
        | {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "tie_word_embeddings": True},
        "pythia": _USUAL
        | {"model_type": "gpt_neox", "architectures": ["GPTNeoXForCausalLM"], "hidden_dropout": 0.3},
        "bert": _USUAL | {"model_type": "bert", "architectures": ["BertForMaskedLM"]},
        "bert-classifier": _USUAL
        | {
            "model_type": "bert",
            "architectures": ["BertForSequenceClassification"],
            "id2label": {"0": "a", "1": "b", "2": "c"},
        },
        "vit": {
            "model_type": "vit",
            "architectures": ["ViTForImageClassification"],
            "hidden_size": 4,
            "intermediate_size": 6,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 8,
            "patch_size": 4,
            "num_channels": 1,
            "id2label": {"0": "a", "1": "b", "2": "c"},
        },
    }
)


def architecture(name: str, folder: Path) -> str:
    """The canonical name of the architecture that a configuration gives."""
    path = folder / f"{name}.json"
    path.write_text(json.dumps(CONFIGS[name]))
    return architectures.canonical(str(path))


def built(name: str, folder: Path, seed: int = 0) -> torch.nn.Module:
    """A network whose weights are larger than initial ones, so that everything in it curves."""
    torch.manual_seed(seed)
    model: nn.Module = architectures.build(architecture(name, folder)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def samples(name: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Inputs and labels as data have them: sequences of unequal length, and some tokens without a loss."""
    generator = torch.Generator().manual_seed(seed)
    if name == "vit":
        return torch.randn(4, 1, 8, 8, generator=generator), torch.arange(4) % 3
    x = torch.randint(VOCABULARY, (4, TOKENS), generator=generator)
    x[1, 3:] = x[2, 2:] = -1  # padding
    if name == "bert-classifier":
        return x, torch.arange(4) % 3
    y = torch.where(x >= 0, torch.randint(VOCABULARY, x.shape, generator=generator), -100)
    if name != "bert":
        y = torch.where(x >= 0, x, -100)
    y[0, :2] = -100  # such as a prompt
    y[3] = -100  # a sample that has no part in the loss
    return x, y


def loss_of(name: str) -> str:
    """The loss that goes with it."""
    if name in ("vit", "bert-classifier"):
        return "cross-entropy"
    return "token-cross-entropy" if name == "bert" else "next-token"


def pairs(name: str, x: Tensor, y: Tensor) -> list[tuple[int, int, int]]:
    """Sample, position and label of every term of the loss; position −1 of one label a sample."""
    found = []
    for n in range(len(x)):
        if y.ndim == 1:
            found.append((n, -1, int(y[n])))
            continue
        shift = 0 if name == "bert" else 1
        found += [
            (n, t, int(y[n, t + shift])) for t in range(x.shape[1] - shift) if int(y[n, t + shift]) != -100
        ]
    return found


def dense(model: nn.Module, name: str, x: Tensor, y: Tensor, kind: Kind) -> Tensor:
    """The Hessian or GGN in float64, from terms of the loss that are written out: (D, D).

    Every sample is computed alone and without its padding. The GGN is summed over tokens and logits; the
    Hessian's rows are derivatives of the gradient's entries, and they are checked against differences of the
    gradient, which need no second derivative.
    """
    model = copied(model)
    parameters = [p for p in model.parameters() if p.requires_grad]
    size = sum(p.numel() for p in parameters)
    terms = pairs(name, x, y)
    matrix = torch.zeros(size, size, dtype=torch.float64)

    def flat(value: Tensor, **more: Any) -> Tensor:
        found = torch.autograd.grad(value, parameters, allow_unused=True, **more)
        return torch.cat(
            [
                torch.zeros(p.numel()).double() if g is None else g.flatten()
                for p, g in zip(parameters, found, strict=True)
            ]
        )

    def logits(n: int) -> Tensor:
        sample = x[n : n + 1]
        if not sample.is_floating_point():
            sample = sample[:, sample[0] >= 0]
        found: Tensor = model(in_float64(sample))[0]
        return found[None] if found.ndim == 1 else found

    def rows() -> list[tuple[Tensor, int]]:
        with Float64():
            found = {n: logits(n) for n in sorted({n for n, *_ in terms})}
            return [(found[n][max(t, 0)], label) for n, t, label in terms]

    if kind == "ggn":
        for row, _ in rows():
            jacobian = torch.stack([flat(each, retain_graph=True) for each in row])
            p = row.detach().softmax(0)
            matrix += jacobian.T @ (p.diag() - torch.outer(p, p)) @ jacobian / len(terms)
        return matrix

    def gradient(**more: Any) -> Tensor:
        return flat(torch.stack([row.exp().sum().log() - row[label] for row, label in rows()]).mean(), **more)

    whole = gradient(create_graph=True)
    found = torch.autograd.grad(
        whole, parameters, torch.eye(size).double(), is_grads_batched=True, allow_unused=True
    )
    for g, part in zip(found, matrix.split([p.numel() for p in parameters], dim=1), strict=True):
        if g is not None:
            part += g.flatten(1)
    v = torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ahead, behind = (gradient_at(gradient, parameters, step * v) for step in (1e-6, -1e-6))
    torch.testing.assert_close(
        matrix @ v, (ahead - behind) / 2e-6, rtol=0, atol=1e-5 * float((matrix @ v).abs().max())
    )
    return matrix


def gradient_at(gradient: Callable[[], Tensor], parameters: list[nn.Parameter], change: Tensor) -> Tensor:
    """The gradient at θ + change."""
    parts = change.split([p.numel() for p in parameters])
    with torch.no_grad():
        for p, part in zip(parameters, parts, strict=True):
            p.add_(part.view(p.shape))
    found = gradient().detach()
    with torch.no_grad():
        for p, part in zip(parameters, parts, strict=True):
            p.sub_(part.view(p.shape))
    return found


@dataclass(frozen=True)
class Deviations:
    """How far an analysis is from the truth.

    Attributes:
        eigenvalues: The largest deviation of an eigenvalue, over the largest |λ|.
        overlap: Of the overlap, by k from 1.
        stated: The stated error of each.
        gaps: (|λ_k| − |λ_{k+1}|) / |λ₁|: what the overlap at k is sensitive to.
    """

    eigenvalues: float
    overlap: list[float]
    stated: list[float]
    gaps: list[float]


def compared(name: str, kind: Kind, precision: Precision, folder: Path, k: int) -> Deviations:
    """Analyse weights, configuration and samples from files, and compare with the double loop."""
    model = built(name, folder).float()
    x, y = samples(name)
    saved = {key: each.detach() for key, each in model.named_parameters()}  # a tied one once
    save_file(saved, folder / "model.safetensors")
    np.savez(folder / "rows.npz", x=x.numpy(), y=y.numpy())
    settings = AnalysisSettings(
        architecture=architecture(name, folder),
        data=str(folder / "rows.npz"),
        loss=loss_of(name),
        subset="all",
        samples=None,
        k=k,
        curvature=kind,
        precision=precision,
        hvp_path="double-backward",
    )
    found = analyse(folder / "model.safetensors", settings).to_json()
    values, vectors = torch.linalg.eigh(dense(model, name, x, y, kind))
    order = values.abs().argsort(descending=True)
    values, vectors = values[order], vectors[:, order]
    theta = torch.cat([p.detach().flatten() for p in model.parameters()])
    largest = theta.abs().argsort(descending=True)
    truth = [float(vectors[largest[:n], :n].square().sum()) / n for n in range(1, k + 1)]
    wrong = (torch.tensor(found["eigenvalues"][:k]).double() - values[:k]).abs().max()
    sizes = values.abs() / values[0].abs()
    return Deviations(
        float(wrong / values[0].abs()),
        [abs(each["overlap"] - true) for each, true in zip(found["overlap"], truth, strict=True)],
        [each["error"] for each in found["overlap"]],
        (sizes[:k] - sizes[1 : k + 1]).tolist(),
    )
