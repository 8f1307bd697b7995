"""The options of the command line that stand for the settings of an analysis, each declared once.

``AnalysisSettings`` has the types and defaults; here is what people read. Imports no torch.
"""

from __future__ import annotations

import functools
import inspect
import shlex
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from seigh.core import methods
from seigh.core.settings import AnalysisSettings

_OPTIONS: dict[str, Any] = {
    "data": typer.Option(
        help="Name of a data set; random(3x32x32,classes=10) for trials; a .npz or .safetensors file with x "
        "and y; or tokens: .jsonl, .parquet, .arrow, .npy, a folder of save_to_disk, a stream "
        "'FILE.bin(block=256,dtype=uint16)', Megatron's FILE.idx beside its .bin, or "
        "'FILE.txt(block=256,tokenizer=tokenizer.json)'."
    ),
    "architecture": typer.Option(
        help="Name of the architecture, with options like 'resnet18(num_classes=10)'; a .pt2 file written by "
        "seigh.export; or the config.json of a transformers model. By default, the architecture that fits "
        "the tensors, or that a config.json beside them describes. analyze also takes my_package.models:Net, "
        "and imports it."
    ),
    "entry": typer.Option(
        metavar="NAME",
        help="Which weights to take from a file with several sets of weights, like state_dict_ema; or the "
        "prefix of their names, like backbone.",
    ),
    "match": typer.Option(
        help="How tensors are matched with the architecture: by names, or by order and shape if the layers "
        "have other names; the pairs are then listed."
    ),
    "split": typer.Option(help="Split of the data set on which the Hessian is computed."),
    "curvature": typer.Option(help="Hessian of the loss, or its generalised Gauss–Newton matrix."),
    "parameters": typer.Option(
        metavar="PATTERN",
        help="Use only parameters whose name matches, like 'layer4.*'; may be given several times.",
    ),
    "loss": typer.Option(
        help="Loss, the mean over the samples or over their tokens: cross-entropy (labels, or soft labels), "
        "mse (numbers of the outputs' shape, or labels as unit vectors), bce (0 or 1 for each output), "
        "next-token or token-cross-entropy (a label for each token), or the loss of a plug-in."
    ),
    "label_smoothing": typer.Option(help="Label smoothing ε of cross-entropy."),
    "class_weights": typer.Option(
        metavar="W,W,…",
        help="Weight of each class in cross-entropy, or of the positive targets of each output in bce.",
    ),
    "ignore_index": typer.Option(
        help="Label of samples and positions that cross-entropy ignores; -100 if not given."
    ),
    "weight_decay": typer.Option(
        help="Weight decay λ as in SGD: adds (λ/2)‖θ‖² to the loss, and so λ·I to the matrix."
    ),
    "penalty": typer.Option(
        metavar="PATTERN=λ",
        help="Weight decay λ of parameters whose name matches, in place of --weight-decay, like '*.bias=0'; "
        "may be given several times, and the last match counts.",
    ),
    "subset": typer.Option(
        help="Samples on which the Hessian is computed: balanced draws N with equal numbers per class, all "
        "takes all, first-per-class takes the first of each class as in the paper, random draws any N, and "
        "indices takes --indices."
    ),
    "samples": typer.Option(
        min=1, help="Number of samples N; 500 if not given. The subsets all and indices determine it."
    ),
    "indices": typer.Option(
        metavar="LIST",
        help="Indices of samples, counted from 0, like 0-99,105; or a file of indices: one per line, .npy, "
        ".npz or .json.",
    ),
    "k": typer.Option("--k", min=1, help="Number of eigenpairs; the overlap is computed for 1 … k."),
    "method": typer.Option(
        help=f"Method for the eigenpairs: {', '.join(methods.BUILT_IN)}, or the method of a plug-in."
    ),
    "seed": typer.Option(min=0, help="Seed of the subset and of all random vectors."),
    "outer": typer.Option(min=1, help="n_O of seigh and ssvd; k if not given."),
    "inner": typer.Option(min=1, help="n_I of seigh and ssvd; 2·n_O if not given."),
    "test_matrix": typer.Option(help="Random test matrices of seigh and ssvd; ssrft is the paper's."),
    "tolerance": typer.Option(
        help="Krylov continues until every residual is at most this fraction of |λ₁|; by default, within "
        "limits, until the overlap is resolved to 1 %."
    ),
    "error_tests": typer.Option(
        min=2, help="Number of random vectors that estimate ‖H‖ and the part of H that the k pairs miss."
    ),
    "curves": typer.Option(
        metavar="NAME",
        help="An observable or mask to compute, as 'seigh curves' lists them; may be given several times.",
    ),
    "learning_rate": typer.Option(
        help="Learning rate η of the training, for edge-of-stability and adam-sharpness; if not given, the "
        "one in the checkpoint."
    ),
    "initial": typer.Option(
        metavar="CKPT",
        help="The initial checkpoint θ₀, for overlap-movement and loss-from-initial; if not given, 'seigh "
        "submit' takes the model's first step.",
    ),
    "previous": typer.Option(
        metavar="CKPT",
        help="The previous checkpoint, for update-share, overlap-update and loss-between; if not given, "
        "'seigh submit' takes the model's previous step.",
    ),
    "masks": typer.Option(
        metavar="[NAME=]FILE",
        help="A mask of your own: scores, or zeros and ones, under the names of the parameters "
        "(.safetensors, .pt or .npz); may be given several times. Its curve is overlap-NAME.",
    ),
    "pruned": typer.Option(
        metavar="[NAME=]CKPT",
        help="A pruned checkpoint, whose nonzero parameters are the mask; may be given several times. Its "
        "curve is overlap-NAME.",
    ),
    "random_masks": typer.Option(
        min=2,
        hidden=True,
        help="Deprecated; has no effect, because mean and spread of random masks are computed exactly.",
    ),
    "precision": typer.Option(
        help="Precision of weights, vectors, products; tf32 and bfloat16 are float32 with coarser products."
    ),
    "hvp_path": typer.Option(
        help="How Hessian-vector products are computed; if not given, the fastest in a short measurement."
    ),
    "hvp_columns": typer.Option(min=1, help="Vectors multiplied at once; requires --hvp-path."),
    "batch_size": typer.Option(min=1, help="Samples differentiated at once; requires --hvp-path."),
}

# Options that may be given several times.
_SEVERAL = ("parameters", "penalty", "curves", "masks", "pruned")

Files = Annotated[
    list[Path],
    typer.Argument(
        metavar="CKPT…",
        help="Checkpoint files (.pt, .pth, .ckpt, .bin, .safetensors); for a checkpoint in several files, "
        "its .index.json or its folder; folders of a training run, and .zip archives of any of these.",
    ),
]

Base = Annotated[
    Path | None,
    typer.Option(
        "--base",
        exists=True,
        help="File or folder of the base model, with which LoRA adapters are merged.",
    ),
]


def _as_they_are(files: Sequence[Path], _base: Path | None) -> AbstractContextManager[Sequence[Path]]:
    return nullcontext(files)


def with_settings(
    settings_of: Callable[..., AnalysisSettings],
    opened: Callable[[Sequence[Path], Path | None], AbstractContextManager[Sequence[Path]]] = _as_they_are,
) -> Callable[..., Callable[..., None]]:
    """A decorator that gives a command the options above.

    The command is called with ``settings=settings_of(files, **options)`` in their place; the architecture may
    be None there.

    Args:
        settings_of: Makes the settings.
        opened: Gives the files as they are to be read, as long as the command runs.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = dict(inspect.signature(command, eval_str=True).parameters)
        del own["settings"]

        @functools.wraps(command)
        def run(**given: Any) -> None:
            options = {name: given[name] for name in _OPTIONS}
            options |= {name: tuple(options[name]) for name in _SEVERAL}
            with opened(given["files"], given["base"]) as files:
                settings = settings_of(files, **options)
                command(settings=settings, **{name: given[name] for name in own} | {"files": files})

        base = inspect.Parameter("base", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Base)
        parameters = [*own.values(), base, *map(_parameter, _OPTIONS)]
        run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters]
        )
        return run

    return decorate


def command_line(settings: AnalysisSettings, file: str, indices: str | None = None) -> str:
    """The ``seigh analyze`` that makes an analysis with these settings of a checkpoint file.

    ``indices`` is the file to read indices from, if it is to name one instead of listing them.
    """
    words = ["seigh", "analyze", file]
    chosen = settings.model_dump(exclude_defaults=True)
    if settings.subset in ("all", "indices"):
        chosen.pop("samples", None)  # follows
    if settings.indices and indices is not None:
        chosen["indices"] = indices
    for name in _OPTIONS:
        value = chosen.get(name, ())
        values: Sequence[Any] = value if isinstance(value, tuple) else (value,)
        for each in values:
            words += ["--" + name.replace("_", "-"), str(each)]
    return shlex.join(words)


def _parameter(name: str) -> inspect.Parameter:
    """The option of a setting as a parameter of a function, as Typer reads it."""
    field = AnalysisSettings.model_fields[name]
    kind, default = field.annotation, field.get_default()
    if name == "architecture":
        kind, default = str | None, None
    elif name in _SEVERAL:
        kind, default = list[str], []
    elif name == "samples":
        default = None
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if field.is_required() and name == "data" else default,
        annotation=Annotated[kind, _OPTIONS[name]],
    )
