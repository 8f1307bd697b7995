"""Recognise files other than torch.save's by their first bytes, and say how to convert them."""

from __future__ import annotations

from seigh.core.reading.words import Refusal

_COMPRESSED = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ\x00": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("Zstandard", "unzstd"),
    b"7z\xbc\xaf\x27\x1c": ("7-Zip", "7z x"),
    b"Rar!": ("RAR", "unrar x"),
}
# A tar archive has its mark behind the first entry's name, owner and checksum.
_TAR, _NAME_IN_TAR = slice(257, 262), 100
_IN_FIRST_FORMAT = ("sys_info", "pickle", "storages", "tensors")

_OTHERS = {
    b"\x89HDF\r\n\x1a\n": "is an HDF5 file, as Keras and TensorFlow write them; load it with its model there "
    "and save the weights with torch.save(model.state_dict(), 'weights.pt').",
    b"GGUF": "is a GGUF file, whose weights are mostly quantised; give the checkpoint that it was made of.",
    b"\x93NUMPY": "is an array of NumPy, not a state dict; save model.state_dict() with torch.save.",
    **dict.fromkeys(
        (b"\x03\0\0\0\x01\0\0\0", b"\x04\0\0\0\x01\0\0\0"),
        "is a file of Torch 7 for Lua; convert it with the tool of its project, and save a state dict with "
        "torch.save.",
    ),
}


def other(start: bytes, name: str) -> Refusal | None:
    """The refusal of a file of another format, by its first 512 bytes; None if they tell of none."""
    for mark, (what, command) in _COMPRESSED.items():
        if start.startswith(mark):
            return Refusal(
                f"'{name}' is compressed with {what}; unpack it with '{command}' and give what is in it."
            )
    if start[_TAR] == b"ustar":
        return _of_tar(start[:_NAME_IN_TAR].rstrip(b"\0").decode("utf-8", "replace").removeprefix("./"), name)
    for mark, sentence in _OTHERS.items():
        if start.startswith(mark):
            return Refusal(f"'{name}' {sentence}")
    return None


def _of_tar(first: str, name: str) -> Refusal:
    if first.partition("/")[0] in _IN_FIRST_FORMAT:
        return Refusal(
            f"'{name}' is of PyTorch 0.1, whose tar format cannot be read without running what is in it; if "
            "you trust it, convert it with torch.save(torch.load(file, weights_only=False), 'new.pt')."
        )
    return Refusal(f"'{name}' is a tar archive; unpack it with 'tar xf' and give the files in it.")


def plain_pickle(name: str) -> Refusal:
    """The refusal of what Python's pickle has written, where tensors lie in pickles of their own."""
    return Refusal(
        f"'{name}' is a plain Python pickle, which contains more than tensors, so it was not loaded and "
        "nothing in it was executed; if you trust it, convert it with "
        "torch.save(pickle.load(open(file, 'rb')), 'new.pt')."
    )
