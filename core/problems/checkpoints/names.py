"""Training steps and epochs in the names of checkpoint files.

A number is a step or an epoch only where the name says so: ``step_000300``, ``iter_5000``,
``checkpoint-500``, ``epoch=3-step=300``. A number at the end of a name that says nothing (``model_40``) may
be a step: it is a guess, and whoever uses it has to ask or to say so. Scores, dates, versions, hashes, seeds,
sizes, learning rates and the numbers of architectures (``vit_b_16``) are neither.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePath

from seigh.core.reading.words import LARGEST_STEP

# Longer numbers at the end of a name are dates, hashes or ids.
_LARGEST_GUESS = 9_999_999


@dataclass(frozen=True)
class NameFacts:
    """The facts in the name of a checkpoint file.

    Attributes:
        step: The training step that the name tells; None where it tells none.
        epoch: The epoch, likewise.
        guess: A number at the end of a name that tells neither, which may be the step.
        step_of_checkpoint: Whether the only word beside the step is "checkpoint". Hugging Face counts steps
            after it, timm and others count epochs, so a file that records its epoch decides.
    """

    step: int | None = None
    epoch: int | None = None
    guess: int | None = None
    step_of_checkpoint: bool = False


# --- What is no count -------------------------------------------------------------------------------------

_SUFFIXES = re.compile(
    r"(?:\.(?:pt|pth|ckpt|bin|safetensors|tar|zip|pkl|pickle|h5|hdf5|keras|npz|weights|model|index|json))+$"
)
_COPY = re.compile(r"\s*\(\d+\)$|[ _-]+copy(?:[ _-]*\d+)?$")  # as browsers and file managers name a copy
_DECORATIONS = re.compile(
    r"(?:[ _.-]+(?:best|last|final|latest|ema|avg|raw|fp16|fp32|bf16|model|net|network|weights|params|state"
    r"|state_dict|unsharded|v\d+))+$"
)

_YEAR, _MONTH, _DAY = r"(?:19|20)\d\d", r"(?:0[1-9]|1[0-2])", r"(?:0[1-9]|[12]\d|3[01])"
_TIME = r"(?:[01]\d|2[0-3])(?P<between>[-_:.h]?)[0-5]\d(?:(?:(?P=between)|m)[0-5]\d)?s?"
_NO_COUNTS = [
    re.compile(pattern)
    for pattern in (
        rf"(?<!\d){_YEAR}(?P<mark>[-_.]?){_MONTH}(?P=mark){_DAY}(?:[-_t .]*{_TIME})?(?!\d)",  # dates
        rf"(?<!\d)\d\d?(?P<mark>[-_.])\d\d?(?P=mark){_YEAR}(?!\d)",
        rf"(?<!\d){_YEAR}[-_.]{_MONTH}(?!\d)",
        r"(?<!\d)\d\d(?P<mark>[-:])\d\d(?P=mark)\d\d(?!\d)",  # times of day
        r"(?<![a-z\d])(?=[a-f]*\d)(?=\d*[a-f])[a-f\d]{6,}(?![a-z\d])",  # hashes
        r"(?<!\d)\d+(?:\.\d+)?e[-+]?\d+(?!\d)",  # 5e-4
        r"\d+(?:[.,]\d+)*\s?(?:%|pct|percent)",
        r"\d+(?:\.\d+)+",  # scores, rates and versions
    )
]
_GONE = "~"  # stands where one of these was

# What counts something else, before a number that stands alone.
_OTHER_COUNTS = frozenset(
    """
    seed s run fold rank version v ver rev exp experiment trial rep repeat replicate split part
    shard of gpu worker node stage phase task job id idx index client round expert cluster group day
    sample samples copy lr wd bs batch batchsize bsz size dim hidden width depth layer layers block
    head heads channels classes class step steps iter iters iteration iterations update updates
    epoch epochs ep e k n d dropout temp temperature alpha beta gamma lambda sigma momentum eps
    epsilon patch window crop res resolution img image imgsize px bits bit fp int p patience warmup
    every max total num sparsity prune pruned best_acc acc accuracy top val valid test train loss
    valloss map ap miou iou f1 auc auroc bleu wer cer psnr ssim fid score metric ppl perplexity dice
    mse mae rmse err error precision recall reward return cifar mnist imagenet svhn coco voc in ade
    kinetics python torch cuda cu jan feb mar apr may jun jul aug sep sept oct nov dec
    """.split()  # noqa: SIM905
)
_TOP = re.compile(r"top\d*|acc\d+|ap\d+|map\d+|recall\d*")

# Architectures whose numbers are theirs, and how many numbers follow the name.
_FAMILIES = {
    "vit": 1, "deit": 1, "swin": 1, "beit": 1, "cait": 1, "maxvit": 1, "mixer": 1, "convnext": 1,
    "regnet": 1, "resnet": 1, "preresnet": 1, "preactresnet": 1, "resnext": 1, "resnest": 1,
    "seresnet": 1, "rn": 1, "vgg": 1, "densenet": 1, "efficientnet": 1, "efficientnetv": 1,
    "mobilenet": 1, "mnasnet": 1, "shufflenet": 1, "squeezenet": 1, "inception": 1, "googlenet": 1,
    "alexnet": 1, "lenet": 2, "cnn": 1, "mlp": 9, "wrn": 2, "wideresnet": 2, "bert": 1, "roberta": 1,
    "gpt": 2, "opt": 1, "llama": 2, "qwen": 2, "gemma": 2, "phi": 2, "pythia": 1, "t": 1, "unet": 1,
    "yolo": 1, "yolov": 1, "dino": 1, "clip": 1, "net2net": 1,
}  # fmt: skip
_SIZES = re.compile(
    r"[a-z]|nano|micro|mini|tiny|small|medium|base|large|huge|giant|xl|xxl|wide|pre|patch|window|bn|lite"
    r"|v?\d+|[a-z]\d+|\d+[a-z]+\d*[a-z]*"
)
_IMAGES = frozenset((224, 256, 288, 299, 384, 448, 512))  # side lengths behind the name of an architecture
_ALWAYS_IMAGES = frozenset((224, 299))
_YEARS = range(1990, 2036)


# --- What is one ------------------------------------------------------------------------------------------

_BEFORE, _NUMBER = r"[ _=.:-]*", r"(\d+)(?![a-z\d]|\.\d)"
_STEP = re.compile(rf"(?<![a-z])(?:steps?|iters?|itr|iterations?|updates?){_BEFORE}{_NUMBER}")
_GLOBAL_STEP = re.compile(rf"(?<![a-z])globalsteps?{_BEFORE}{_NUMBER}")
_IT = re.compile(rf"(?<![a-z\d])it[ _=:-]?{_NUMBER}")
_STEPS_AFTER = re.compile(r"(?<![a-z\d.])(\d+)[ _-]?(?:steps|iters|iterations|updates)$")
_EPOCH = re.compile(rf"(?:epochs?|(?<![a-z])(?:epo|ep)){_BEFORE}{_NUMBER}")
_EPOCHS_AFTER = re.compile(r"(?<![a-z\d.])(\d+)[ _-]?(?:epochs?|ep)$")
# Hyperparameters and lengths: max_steps, warmup_epochs, diffusion_steps.
_NO_MOMENT = re.compile(
    r"(?<![a-z])(?:max|total|num|n|warm|warmup|lr|decay|diffusion|inference|sampling|denoising|noise|accum"
    r"|accumulation|accumulate|grad|time|every|per|unroll|attack|pgd|ode|euler|inner|patience)[ _=.-]*$"
)
_COMPOSER = re.compile(r"(?<![a-z])ep(\d+)-ba(\d+)(?![a-z\d])")
_FAIRSEQ = re.compile(r"^checkpoint_(\d+)_(\d+)$")
_CHECKPOINT = re.compile(r"(?<![a-z])(?:ckpt|checkpoint)[ _=.-]+(\d+)(?![a-z\d])")
_LAST_NUMBER = re.compile(r"(?:^|[ _=.~-])(\d+)$")
_NUMBERED = re.compile(
    r"(?<![a-z])(?:model|net|network|ckpt|checkpoint|weights|snapshot|state|params|save|saved|cp|ema)(\d+)$"
)


def read_name(name: str) -> NameFacts:
    """The step and epoch that a file name tells, or the number in it that may be the step.

    >>> read_name("epoch=3-step=300.ckpt")
    NameFacts(step=300, epoch=3, guess=None, step_of_checkpoint=False)
    >>> read_name("model_40.pth")
    NameFacts(step=None, epoch=None, guess=40, step_of_checkpoint=False)
    >>> read_name("epoch=1-val_loss=0.71.pt").epoch, read_name("vit_b_16.pt"), read_name("best_acc_91.5.pt")
    (1, NameFacts(step=None, epoch=None, guess=None, step_of_checkpoint=False), NameFacts(step=None, epoch=None, guess=None, step_of_checkpoint=False))
    """  # noqa: E501
    stem = _stem(name)
    masked = stem
    for pattern in _NO_COUNTS:
        masked = pattern.sub(_GONE, masked)
    if match := _COMPOSER.search(stem) or _FAIRSEQ.search(masked):
        return NameFacts(step=_counted(match[2]), epoch=_counted(match[1]))
    epoch = _told(_EPOCH, stem)
    step = _told(_STEP, stem)
    if step is None:
        step = _told(_GLOBAL_STEP, stem)
    if step is None and not re.search(r"\db[ _-]it", stem):  # "2b-it" is instruction-tuned
        step = _told(_IT, stem)
    if step is None:
        step = _told(_STEPS_AFTER, stem)
    if epoch is None and step is None:
        epoch = _told(_EPOCHS_AFTER, stem)
    if step is not None or epoch is not None:
        return NameFacts(step, epoch)
    return _of_checkpoint(masked) or NameFacts(guess=_guess(masked))


def pattern(name: str, number: int) -> str:
    """A file name with ``*`` for the last number of this value, to see whether names differ in it alone.

    >>> pattern("model_0040.pth", 40), pattern("model_8.pth", 8)
    ('model_*.pth', 'model_*.pth')
    """
    found = [match for match in re.finditer(r"\d+", name) if int(match[0]) == number]
    return f"{name[: found[-1].start()]}*{name[found[-1].end() :]}" if found else name


def _stem(name: str) -> str:
    """The name in small letters, without suffixes and without the mark of a copy."""
    spaced = re.sub(r"(?<=[a-z\d])(?=(?:Step|Epoch|Iter)s?)", "_", PurePath(name).name)
    stem = _SUFFIXES.sub("", spaced.lower())
    return _COPY.sub("", stem)


def _counted(digits: str) -> int | None:
    number = int(digits)
    return number if number <= LARGEST_STEP else None


def _told(pattern: re.Pattern[str], stem: str) -> int | None:
    """The first number after such a word that is no hyperparameter."""
    for match in pattern.finditer(stem):
        if not _NO_MOMENT.search(stem[: match.start()]) or "update" in match[0]:
            return _counted(match[1])
    return None


def _of_checkpoint(masked: str) -> NameFacts | None:
    """``checkpoint-500``, as Hugging Face names it; a guess where another number or a score follows."""
    match = _CHECKPOINT.search(masked)
    if match is None:
        return None
    number, rest = _counted(match[1]), masked[match.end() :]
    if (
        number is None
        or len(match[1].lstrip("0")) > len(str(_LARGEST_GUESS))
        or rest.startswith(("-of-", "."))
    ):
        return NameFacts()
    if re.match(r"[ _=.-]*[\d~]", rest):
        return NameFacts(guess=number)
    return NameFacts(step=number, step_of_checkpoint=True)


def _guess(masked: str) -> int | None:
    stem = _DECORATIONS.sub("", masked)
    match = _LAST_NUMBER.search(stem)
    if match is None:
        match = _NUMBERED.search(stem)
        return None if match is None else _plausible(match[1])
    before = [token for token in re.split(r"[ _=.-]+", stem[: match.start()]) if token]
    number = _plausible(match[1])
    if number is None or (before and (before[-1] in _OTHER_COUNTS or _TOP.fullmatch(before[-1]))):
        return None
    return None if _is_of_architecture(number, before) else number


def _plausible(digits: str) -> int | None:
    number = int(digits)
    if number > _LARGEST_GUESS or number in _ALWAYS_IMAGES:
        return None
    return None if len(digits) == 4 and number in _YEARS else number


def _is_of_architecture(number: int, before: list[str]) -> bool:
    """Whether a number belongs to the architecture's name before it: resnet_18, vit_b_16, wrn_28_10."""
    numbers = 0
    for place in reversed(range(len(before))):
        token = before[place]
        own = re.fullmatch(r"([a-z]+)(\d*)", token)
        if own and own[1] in _FAMILIES:
            taken = numbers + bool(own[2])
            wide = own[1] == "resnet" and place > 0 and before[place - 1] == "wide"
            return taken < _FAMILIES[own[1]] + wide or number in _IMAGES
        if not _SIZES.fullmatch(token):
            return False
        numbers += token.isdigit() or bool(re.fullmatch(r"(?:patch|window)\d+", token))
    return False
