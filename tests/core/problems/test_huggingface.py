"""Transformers from their configurations: names, sizes, refusals, and curvature against a double loop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from seigh.core.curvature import CurvatureOperator
from seigh.core.names import Kind
from seigh.core.problems import architectures, huggingface, losses
from seigh.core.problems.spec import parse
from seigh.core.problems.token_losses import Tally, TokenCrossEntropy
from seigh.core.settings import AnalysisSettings, SettingsError
from tests.core.problems.token_networks import CONFIGS, architecture, built, compared, dense, loss_of, samples

pytest.importorskip("transformers")


def from_config(config: object, folder: Path) -> str:
    path = folder / "config.json"
    path.write_text(config if isinstance(config, str) else json.dumps(config))
    return architectures.canonical(str(path))


@pytest.mark.parametrize("name", CONFIGS)
def test_the_name_of_an_architecture_says_all(name: str, tmp_path: Path) -> None:
    text = architecture(name, tmp_path)
    assert architectures.canonical(text) == text
    assert huggingface.usual_loss(text) == loss_of(name)
    model = architectures.build(text)
    assert not any(module.training for module in model.modules())
    expected = architectures.expected_tensors(text)
    assert {key: tuple(each.shape) for key, each in model.state_dict().items()} == {
        key: tuple(each.shape) for key, each in expected.items()
    }
    assert all(each.is_meta for each in expected.values())
    distinct = {id(p): p.numel() for _, p in model.named_parameters(remove_duplicate=False)}
    assert architectures.parameter_count(text) == sum(distinct.values())
    x, _ = samples(name)
    outputs = model(x)
    assert outputs.shape == ((4, 3) if x.is_floating_point() or name == "bert-classifier" else (4, 5, 11))
    assert torch.equal(model(x), outputs)  # dropout is off


def test_tied_weights_count_once(tmp_path: Path) -> None:
    tied, untied = (architectures.expected_theta(architecture(n, tmp_path)) for n in ("gpt2", "gpt2-untied"))
    assert tied.tied == 11 * 4
    assert untied.tied == 0
    assert untied.trainable - tied.trainable == 11 * 4


def test_entries_that_decide_nothing_make_no_other_architecture(tmp_path: Path) -> None:
    usual = architecture("gpt2", tmp_path)
    more = {"resid_pdrop": 0.7, "bos_token_id": 2, "use_cache": False, "torch_dtype": "float16", "_x": 1}
    assert from_config(CONFIGS["gpt2"] | more | {"transformers_version": "4.1"}, tmp_path) == usual
    assert usual == "hf/GPT2LMHeadModel(n_embd=4,n_head=2,n_inner=6,n_layer=1,n_positions=6,vocab_size=11)"


def test_older_names_of_entries_are_those_of_today(tmp_path: Path) -> None:
    old = CONFIGS["llama"]
    new = {key: value for key, value in old.items() if key != "rope_theta"}
    today = from_config(new | {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}, tmp_path)
    assert from_config(old, tmp_path) == today != from_config(new, tmp_path)
    (rope,) = [value for key, value in parse(today).options if key == "rope_parameters"]
    assert str(rope).startswith("json-")


def test_padding_does_not_reach_other_tokens(tmp_path: Path) -> None:
    for name in ("llama", "bert", "bert-classifier"):
        model = built(name, tmp_path)
        x, _ = samples(name)
        alone = model(x[1:2, :3])
        together = model(x)[1:2]
        torch.testing.assert_close(together if together.ndim == 2 else together[:, :3], alone)


def test_shapes_alone_never_name_a_transformer(tmp_path: Path) -> None:
    tensors = architectures.expected_tensors(architecture("gpt2", tmp_path))
    assert architectures.fitting({key: tuple(each.shape) for key, each in tensors.items()}) == []


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, "hessian") for name in CONFIGS]
    + [(n, "ggn") for n in ("gpt2", "llama", "pythia", "bert", "vit")],
)
def test_curvature_is_that_of_a_double_loop(name: str, kind: Kind, tmp_path: Path) -> None:
    model = built(name, tmp_path)
    x, y = samples(name)
    if x.is_floating_point():
        x = x.double()
    loss = losses.build(AnalysisSettings(architecture="tanh-mlp", data="digits", loss=loss_of(name)))
    labels, shares = losses.targets(loss_of(name), y, model(x)), None
    if isinstance(loss, TokenCrossEntropy):
        tally = Tally(loss, labels)
        tally.add(model(x).detach())
        shares = tally.mean().shares
    truth = dense(model, name, x, y, kind)
    assert len(truth) == architectures.parameter_count(architecture(name, tmp_path)) <= 20_000
    operator = CurvatureOperator(model, loss, x, labels, kind=kind, shares=shares, batch_size=2)
    found = operator @ torch.eye(len(truth), dtype=torch.float64)
    # transformers computes some norms in float32, whatever the weights are.
    torch.testing.assert_close(found, truth, rtol=0, atol=2e-6 * float(truth.abs().max()))


# --- Refusals ---------------------------------------------------------------------------------------------

_GPT2 = CONFIGS["gpt2"]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ([1], "is no configuration"),
        ({"n_embd": 8}, "has no model_type"),
        (_GPT2 | {"model_type": "no-such"}, "'no-such' of 'config.json' is unknown"),
        (_GPT2 | {"model_type": "whisper"}, "no language model or classifier|no loss"),
        (_GPT2 | {"auto_map": {"AutoModel": "their.code"}}, "never run"),
        (_GPT2 | {"quantization_config": {"bits": 4}}, "quantised"),
        (_GPT2 | {"architectures": None}, "does not say which model"),
        (_GPT2 | {"architectures": ["os.system"]}, "for which there is no loss"),
        (_GPT2 | {"n_embd": 7}, "cannot be built"),
        (_GPT2 | {"n_embd": "many"}, "n_embd"),
        (_GPT2 | {"activation_function": "no-such"}, "cannot be built"),
        (_GPT2 | {"n_layer": 10**7}, "more than"),
        (_GPT2 | {"n_embd": 10**6}, "more than"),
        (_GPT2 | {"n_embd": 10**15}, "no model has"),
        (_GPT2 | {"vocab_size": 1e400}, "no model has|n_embd|vocab_size"),
        (_GPT2 | {"activation_function": "x" * 2000}, "no model has"),
        (_GPT2 | {"n_inner": -5}, "cannot be built"),
    ],
)
def test_configurations_that_are_none_are_refused_in_a_sentence(
    config: object, words: str, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=words) as refused:
        from_config(config, tmp_path)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 600


@pytest.mark.parametrize(
    "text",
    [
        "hf/NoSuchModel",
        "hf/GPT2LMHeadModel(n_heads=3)",
        "hf/GPT2LMHeadModel(resid_pdrop=0.5)",
        "hf/GPT2LMHeadModel(8)",
        "hf/GPT2LMHeadModel(n_embd=json-x)",
        "hf/GPT2LMHeadModel(n_embd=8,n_head=3)",
    ],
)
def test_names_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(SettingsError):
        architectures.canonical(text)


def test_a_model_that_memory_is_too_small_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface, "available_memory", lambda _: 1000)
    text = "hf/GPT2LMHeadModel(n_embd=8,n_head=2,n_layer=1,n_positions=8,vocab_size=23)"
    assert architectures.parameter_count(text) > 1000
    with pytest.raises(SettingsError, match="GiB of memory"):
        architectures.build(text)


def test_nothing_is_asked_of_a_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import socket

    def no(*_: Any, **__: Any) -> None:
        raise AssertionError("a connection was asked for")

    monkeypatch.setattr(socket.socket, "connect", no)
    architectures.build(architecture("vit", tmp_path))


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface, "is_installed", lambda: False)
    with pytest.raises(SettingsError, match="extra 'hf'"):
        from_config(_GPT2, tmp_path)
    remembered = [each for each in vars(architectures).values() if hasattr(each, "cache_clear")]
    for each in remembered:
        each.cache_clear()
    try:
        with pytest.raises(SettingsError, match="extra 'hf'"):
            architectures.canonical("hf/GPT2LMHeadModel")
    finally:
        for each in remembered:
            each.cache_clear()


# All eight with both matrices and precisions: python -m benchmarks.language --small.
@pytest.mark.parametrize(
    ("name", "kind"), [("gpt2", "hessian"), ("gpt2-untied", "ggn"), ("llama", "hessian"), ("vit", "ggn")]
)
def test_an_analysis_of_files_finds_the_true_eigenvalues_and_overlap(
    name: str, kind: Kind, tmp_path: Path
) -> None:
    """From weights, configuration and a file of tokens, as ``seigh analyze`` takes them."""
    found = compared(name, kind, "float32", tmp_path, k=5)
    assert found.eigenvalues < 1e-4
    assert len(found.overlap) == 5
    assert max(found.overlap) < 1e-4
    assert all(off <= stated for off, stated in zip(found.overlap, found.stated, strict=True))
