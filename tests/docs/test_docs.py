"""The pages say what is true: they build, their examples run, and their tables agree with the code."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import typer

import seigh
from seigh.app.cli.command import cli
from seigh.core.methods import BUILT_IN
from seigh.core.names import SUBSETS, TableName
from seigh.core.problems import data, training
from seigh.core.results import schema
from seigh.core.settings import Settings
from tests.docs.pages import DOCS, PAGES, README, ROOT, blocks, commands, rows

# The tutorial trains and analyses while the pages are built.
pytestmark = pytest.mark.timeout(600)

VARIABLE = re.compile(r"\bSEIGH_[A-Z_]+\b")
TUTORIAL = DOCS / "tutorial.ipynb"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built pages; every warning is an error, and so is a cell of the tutorial that fails."""
    folder = tmp_path_factory.mktemp("site")
    options = [
        "--builder",
        "html",
        "--fail-on-warning",
        "--keep-going",
        "--doctree-dir",
        str(folder / "trees"),
    ]
    command = [sys.executable, "-m", "sphinx", *options, str(DOCS), str(folder / "html")]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout[-3000:] + built.stderr[-3000:]
    return folder / "html"


# --- The built pages --------------------------------------------------------------------------------------


def test_every_page_is_in_the_site_and_in_its_contents(site: Path) -> None:
    contents = (site / "index.html").read_text(encoding="utf-8")
    for page in (*DOCS.glob("*.md"), *DOCS.glob("*.ipynb"), *DOCS.glob("api/*")):
        name = page.relative_to(DOCS).with_suffix(".html")
        assert (site / name).is_file()
        assert name.name == "index.html" or f'href="{name}"' in contents


def test_the_pages_need_no_network(site: Path) -> None:
    for page in site.rglob("*.html"):
        loaded = re.findall(
            r'<(?:script|img|link rel="(?:stylesheet|icon)")[^>]* (?:src|href)="(http[^"]+)"',
            page.read_text(),
        )
        assert loaded == [], page.name


def test_the_reference_has_every_public_name(site: Path) -> None:
    reference = "".join(page.read_text(encoding="utf-8") for page in site.glob("api/*.html"))
    for name in seigh.__all__:
        assert f'id="seigh.{name}"' in reference


def test_the_tutorial_shows_what_it_computes(site: Path) -> None:
    page = (site / "tutorial.html").read_text(encoding="utf-8")
    assert re.search(r"D = 7,030, \d+ Hessian-vector products", page)
    assert page.count('src="_images/') == 2  # the curve with its error, and the overlap over training


def test_the_tutorial_is_kept_without_outputs() -> None:
    cells = [cell for cell in json.loads(TUTORIAL.read_text())["cells"] if cell["cell_type"] == "code"]
    assert cells
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)


# --- Tables -----------------------------------------------------------------------------------------------


def test_every_variable_of_the_configuration_is_told_with_its_default() -> None:
    told = {row[0].strip("`"): row[1:] for row in rows(DOCS / "configuration.md")}
    assert set(told) == {f"SEIGH_{name.upper()}" for name in Settings.model_fields}
    for name, field in Settings.model_fields.items():
        default, meaning = told[f"SEIGH_{name.upper()}"]
        assert meaning
        plain = field.get_default()
        if plain is None or not str(plain).strip("*"):  # an empty text, or a secret that is empty
            assert default
        else:
            assert default == f"`{plain}`"


def test_every_variable_that_is_told_exists() -> None:
    compose = set(VARIABLE.findall((ROOT / ".env.example").read_text()))
    known = {f"SEIGH_{name.upper()}" for name in Settings.model_fields} | compose
    for page in PAGES:
        unknown = {name for name in VARIABLE.findall(page.read_text()) if not name.endswith("_")} - known
        assert unknown == set(), page.name


def test_every_variable_of_an_installation_is_told() -> None:
    told = (DOCS / "lab.md").read_text() + (DOCS / "configuration.md").read_text()
    for name in re.findall(r"^#?([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE):
        assert f"`{name}`" in told


def leaves(command: object, name: str = "seigh") -> Iterator[tuple[str, object]]:
    """The commands that do something, by their whole names."""
    if hasattr(command, "commands"):
        for each, child in command.commands.items():
            yield from leaves(child, f"{name} {each}")
    else:
        yield name, command


COMMANDS = dict(leaves(typer.main.get_command(cli)))


def test_every_command_is_told() -> None:
    told = (DOCS / "commands.md").read_text()
    for name in COMMANDS:
        assert name in told or (name.startswith("seigh user ") and f"`{name.split()[-1]}`" in told), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_that_is_shown_exists_with_its_options(page: Path) -> None:
    shown = [words for language, text in blocks(page) if language == "sh" for words in commands(text)]
    shown += [
        words
        for text in re.findall(r"`(seigh [^`]+)`", page.read_text(encoding="utf-8"))
        for words in commands(text)
    ]
    for words in shown:
        if words[0].startswith("-"):  # seigh --help
            continue
        if words[0] == "COMMAND" or (words[0] == "user" and len(words) == 1):
            continue
        command = COMMANDS[" ".join(["seigh", *words[: 2 if words[0] == "user" else 1]])]
        options = {name for each in command.params for name in each.opts} | {"--help"}
        assert {word for word in words if word.startswith("--")} <= options, words


def test_every_choice_is_told() -> None:
    first = {page: {row[0] for row in rows(DOCS / f"{page}.md")} for page in ("analyse", "method", "train")}
    for page, names in (
        ("method", tuple(BUILT_IN)),
        ("analyse", (*SUBSETS, *data.names())),
        ("train", training.problems()),
    ):
        told = {name for cell in first[page] for name in re.findall(r"`([^`]+)`", cell)}
        assert set(names) <= told
    tables = {name for row in rows(DOCS / "commands.md") for name in re.findall(r"`(\w+)`", row[0])}
    assert set(get_args(TableName)) <= tables


def test_every_column_of_the_results_is_told() -> None:
    told = [[cell.replace("\\|", "|") for cell in row] for row in rows(DOCS / "results.md") if len(row) == 4]
    assert told == [
        [f"`{table.name}`", f"`{column.name}`", column.unit or "–", meaning]
        for table in schema.TABLES.values()
        for column in table.columns
        for meaning in [column.meaning + ("" if column.known else " (may be unknown)")]
    ]


def test_packages_import_what_the_architecture_says() -> None:
    page = (DOCS / "architecture.md").read_text()
    allowed = {
        row[0].strip("`"): set(re.findall(r"`([\w.]+)`", row[1])) for row in rows(DOCS / "architecture.md")
    }
    small = set(re.findall(r"`(core\.\w+)`", page.partition("everything stands on:")[2].partition("\n\n")[0]))
    assert len(small) > 5
    for package in ("core", "tasks", "app", "migrations"):
        for file in (ROOT / package).rglob("*.py"):
            of = unit(f"seigh.{'.'.join(file.relative_to(ROOT).with_suffix('').parts)}")
            base = of in small or of in ("core.settings", "core.__init__")
            may = small | ({"core.settings", "core.methods"} if base else allowed[of] | {of})
            found = {name for name in map(unit, imports(file)) if not {name, name.partition(".")[0]} & may}
            assert found == set(), file


def unit(module: str) -> str:
    """The package or module that the table has a row for, of the full name of a module."""
    parts = module.split(".")[1:]
    return ".".join(parts[:2]) if parts[0] == "core" else parts[0]


def imports(file: Path) -> Iterator[str]:
    """The modules of ours that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [each.name for each in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            top = node.module in ("seigh", "seigh.core", "seigh.tasks", "seigh.app")
            names = [f"{node.module}.{each.name}" for each in node.names] if top else [node.module]
        yield from (name for name in names if name.startswith("seigh."))


def test_a_word_of_the_glossary_has_one_entry_in_its_place() -> None:
    words = [row[0] for row in rows(DOCS / "glossary.md")]
    assert len(words) > 40
    assert words == sorted(set(words), key=str.casefold)


def test_the_changelog_has_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    headings = re.findall(r"^## (\S+)", (DOCS / "changelog.md").read_text(), re.MULTILINE)
    assert headings[:2] == ["Unreleased", version]


# --- Links ------------------------------------------------------------------------------------------------


def test_links_of_the_readme_lead_to_files() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)", README.read_text())
    assert len(links) > 10
    for link in links:
        assert (ROOT / link).is_file()
