"""Files that must not be trusted: refused by name, with nothing left behind."""

import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conversion_cases import native, small
from published_file import published
from safetensors.torch import load_file, save_file

from sisa_scale.conversion.convert import convert
from sisa_scale.errors import CheckpointError, ConfigError, SisaScaleError
from sisa_scale.files import sha256_file


def refuses(source: Path, says: str, form: Any = "native", error: type[SisaScaleError] = CheckpointError) -> None:
    """Check that the source is refused with these words, and that nothing new stands beside it."""
    before = sorted(path for path in source.parent.rglob("*"))
    destination = source.parent / "converted"
    with pytest.raises(error, match=says):
        convert(source, destination, form)
    assert sorted(path for path in source.parent.rglob("*")) == before


class Evil:
    """A pickle that runs a command when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


def test_a_malicious_pickle_is_not_run(tmp_path: Path) -> None:
    proof = tmp_path / "was_run"
    torch.save({"model": Evil(proof)}, tmp_path / "final.pt")
    refuses(tmp_path / "final.pt", "more than tensors")
    (tmp_path / "final.pt").unlink()
    (tmp_path / "old.pt").write_bytes(pickle.dumps(Evil(proof)))  # the format before zip
    refuses(tmp_path / "old.pt", "no zip archive")
    assert not proof.exists()


def test_zip_bombs_are_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "final.pt"
    torch.save(published(True), path)
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content if not name.endswith("data/0") else bytes(50_000_000))
    refuses(path, "members of|compressed")
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("data/0", "../../outside"), content)
    refuses(path, "stay inside|member name")
    content = bytearray(path.read_bytes())
    place = content.rfind(b"PK\x01\x02")
    content[place + 20 : place + 28] = struct.pack("<II", 0xFFFFFFF0, 0xFFFFFFF0)  # sizes in the directory
    path.write_bytes(content)
    refuses(path, "members of|no zip|damaged")


def test_a_truncated_published_file_is_named(tmp_path: Path) -> None:
    torch.save(published(True), tmp_path / "final.pt")
    os.truncate(tmp_path / "final.pt", (tmp_path / "final.pt").stat().st_size // 2)
    refuses(tmp_path / "final.pt", "final.pt: found no zip archive")


def drop(state: dict[str, Any]) -> None:
    del state["layers.1.W_C.weight"]


def add(state: dict[str, Any]) -> None:
    state["layers.1.W_Z.weight"] = torch.zeros(3)


def reshape(state: dict[str, Any]) -> None:
    state["layers.1.W_K.weight"] = state["layers.1.W_K.weight"][:-1]


def spoil(state: dict[str, Any]) -> None:
    state["layers.0.W_O.weight"][3, 4] = float("nan")


def whole_numbers(state: dict[str, Any]) -> None:
    state["layers.0.W_O.weight"] = state["layers.0.W_O.weight"].int()


def no_tensor(state: dict[str, Any]) -> None:
    state["layers.0.W_O.weight"] = [1.0]


DAMAGE: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "missing": (drop, r"no layers\.1\.W_C\.weight"),
    "extra": (add, r"an extra layers\.1\.W_Z\.weight"),
    "shape": (reshape, r"layers\.1\.W_K\.weight of shape \[31, 32\] instead of \[32, 32\]"),
    "nan": (spoil, r"layers\.0\.W_O\.weight with 1 of 1024 elements that are NaN"),
    "dtype": (whole_numbers, r"layers\.0\.W_O\.weight with dtype torch.int32"),
    "no tensor": (no_tensor, "no dense tensor"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_published_tensors_are_named(name: str, tmp_path: Path) -> None:
    damage, says = DAMAGE[name]
    saved = published(True)
    damage(saved["model"])
    torch.save(saved, tmp_path / "final.pt")
    refuses(tmp_path / "final.pt", says)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A small model as three safetensors files with an index."""
    convert(native(tmp_path / "native", small("transformer")), tmp_path / "plain", "safetensors", shard_bytes=200_000)
    assert (tmp_path / "plain" / "model.safetensors.index.json").is_file()
    return tmp_path / "plain"


@pytest.mark.parametrize("file", ["../native/rank_00000.safetensors", "/etc/passwd", "a\\b.safetensors", "x.bin"])
def test_an_index_cannot_lead_elsewhere(file: str, plain: Path) -> None:
    path = plain / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["norm.weight"] = file
    path.write_text(json.dumps(index))
    refuses(plain, "files lie beside the index")


def test_an_index_that_misleads_is_refused(plain: Path) -> None:
    path = plain / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    first, last = index["weight_map"]["embedding.weight"], index["weight_map"]["norm.weight"]
    assert first != last
    path.write_text(json.dumps({"weight_map": index["weight_map"] | {"norm.weight": first}}))
    refuses(plain, "norm.weight")
    path.write_text(json.dumps({"weight_map": index["weight_map"] | {"ghost": first}}))
    refuses(plain, "no ghost")
    path.write_text("[" * 100_000)
    refuses(plain, "unreadable JSON")
    path.write_text("{}")
    refuses(plain, "no weight_map")
    path.unlink()
    refuses(plain, "model.safetensors: found no such file")


def test_damaged_headers_are_refused(plain: Path) -> None:
    path = sorted(plain.glob("*.safetensors"))[0]
    whole = path.read_bytes()
    path.write_bytes(whole[:-8])
    refuses(plain, "damaged safetensors file")
    path.write_bytes(struct.pack("<Q", 1 << 62) + whole[8:])  # a header of exabytes
    refuses(plain, "damaged safetensors file")
    path.write_bytes(whole[:4])
    refuses(plain, "damaged safetensors file")


@pytest.mark.parametrize("name", ["missing", "extra", "shape", "nan", "dtype"])
def test_damaged_safetensors_are_named(name: str, tmp_path: Path) -> None:
    convert(native(tmp_path / "native", small("transformer")), tmp_path / "plain", "safetensors")
    path, key = tmp_path / "plain" / "model.safetensors", "blocks.1.mixer.out.weight"
    tensors = load_file(path)
    if name == "missing":
        del tensors[key]
    elif name == "extra":
        tensors["more"] = torch.zeros(2)
    elif name == "shape":
        tensors[key] = tensors[key].T[:-1].contiguous()
    elif name == "nan":
        tensors[key][0, 0] = float("inf")
    else:
        tensors[key] = tensors[key].double()
    save_file(tensors, path)
    says = {"extra": "an extra more", "missing": f"no {key}", "nan": "NaN or infinite", "dtype": "float64"}
    refuses(tmp_path / "plain", says.get(name, key))


def test_a_damaged_description_is_refused(plain: Path) -> None:
    path = plain / "sisa_scale.json"
    good = json.loads(path.read_text())
    path.write_text(json.dumps({**good, "step": "3"}))
    refuses(plain, "incomplete")
    path.write_text(json.dumps({**good, "config": {**good["config"], "modell": {}}}))
    refuses(plain, "model", error=ConfigError)
    path.write_text("{")
    refuses(plain, "unreadable JSON")


def test_a_changed_native_file_is_refused(tmp_path: Path) -> None:
    directory = native(tmp_path / "native", small("transformer"))
    path = directory / "rank_00000.safetensors"
    digest = sha256_file(path)
    with path.open("r+b") as stream:
        stream.seek(-4, os.SEEK_END)
        stream.write(b"\x01")
    assert sha256_file(path) != digest
    refuses(directory, "SHA-256")


def test_other_directories_and_destinations_are_refused(tmp_path: Path) -> None:
    directory = native(tmp_path / "native", small("transformer"))
    (tmp_path / "llama").mkdir()
    (tmp_path / "llama" / "config.json").write_text('{"model_type": "llama"}')
    refuses(tmp_path / "llama", "another architecture")
    refuses(tmp_path / "nothing", "no finished checkpoint")
    (tmp_path / "there").mkdir()
    with pytest.raises(ConfigError, match="overwrites nothing"):
        convert(directory, tmp_path / "there", "safetensors")
    with pytest.raises(ConfigError, match="--tokenizer"):
        convert(directory, tmp_path / "hf", "huggingface")
    assert not (tmp_path / "hf").exists()


def test_a_write_that_goes_wrong_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = native(tmp_path / "native", small("transformer"))
    from sisa_scale.conversion.forms import tensor_files

    write = tensor_files.write_file

    def flipping(path: Path, entries: Any, advance: Any) -> None:
        write(path, entries, advance)
        with path.open("r+b") as stream:
            stream.seek(-2, os.SEEK_END)
            stream.write(b"\x00")

    monkeypatch.setattr(tensor_files, "write_file", flipping)
    with pytest.raises(CheckpointError, match="logits that differ"):
        convert(directory, tmp_path / "plain", "safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["native"]
