"""The model card: README.md of an exported folder, from the manifest of its source.

What is written is meant to be published: of paths only names are kept, and the licence is the publisher's to state.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from swinmim.checkpoint.encoder import Stored
from swinmim.checkpoint.manifest import Ancestor, Manifest
from swinmim.outside import one_line

CARD = "README.md"
Content = Literal["encoder", "SimMIM model", "task model"]
MOST_CLASSES = 100


@dataclass(frozen=True)
class Use:
    """What a card says of its format."""

    library: str
    """Of the hub's `library_name`."""
    code: str
    """How to load it; FOLDER stands for its place."""


TIMM = Use(
    "timm",
    'model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()\n'
    "transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))\n"
    "model(transform(image)[None])",
)
_PROCESSOR = 'inputs = transformers.AutoImageProcessor.from_pretrained("FOLDER")(image, return_tensors="pt")\n'
HUGGING_FACE = {
    "encoder": Use(
        "transformers",
        f'model = transformers.AutoModel.from_pretrained("FOLDER").eval()\n{_PROCESSOR}model(**inputs).pooler_output',
    ),
    "simmim": Use(
        "transformers",
        'model = transformers.AutoModelForMaskedImageModeling.from_pretrained("FOLDER").eval()\n'
        f"{_PROCESSOR}model(**inputs, bool_masked_pos=mask).reconstruction  # mask (B, patches), True = masked",
    ),
    "task": Use(
        "transformers",
        'model = transformers.AutoModelForImageClassification.from_pretrained("FOLDER").eval()\n'
        f"{_PROCESSOR}[model.config.id2label[i] for i in model(**inputs).logits.argmax(1).tolist()]",
    ),
}
ONNX = Use(
    "onnx",
    'session = onnxruntime.InferenceSession("FOLDER/model.onnx")\n'
    'session.run(None, {"images": images})  # float32 (B, C, H, W), normalised; any B',
)
TORCH_EXPORT = Use(
    "pytorch",
    'network = torch.export.load("FOLDER/model.pt2").module()\n'
    "network(images)  # float32 (B, C, H, W), normalised; any B",
)


def write_card(folder: Path, stored: Stored, use: Use, what: Content, notes: Sequence[str] = ()) -> None:
    """Write README.md; what, notes: what of `stored` the folder holds, and more lines on it."""
    (folder / CARD).write_text("\n".join(_lines(stored, use, what, notes)) + "\n")


def add_to_card(folder: Path, title: str, lines: Sequence[str]) -> None:
    """A section at the end."""
    with (folder / CARD).open("a") as file:
        file.write("\n".join(["", f"## {title}", "", *(f"* {line}" for line in lines)]) + "\n")


def _lines(stored: Stored, use: Use, what: Content, notes: Sequence[str]) -> Iterator[str]:
    manifest = stored.manifest
    a, task = manifest.architecture, manifest.task or {}
    of = f" for {_quiet(str(task.get('kind')))}" if task else ""
    yield from ("---", f"library_name: {use.library}", "tags:", "- swinv2", "- swinmim")
    yield from ("---", "", f"# {a.name}: {what}{of}", "")
    height, width = manifest.resolution
    yield from (
        f"* Swin Transformer V2: embed_dim {a.embed_dim}, depths {list(a.depths)}, {a.in_chans} channels",
        f"* images of {height} x {width} px, windows {_windows(manifest.windows)} tokens, position bias in units of "
        f"{_windows(manifest.pretrained_windows)}",
        f"* normalised by mean {list(manifest.mean)} and deviation {list(manifest.std)} of pixels in 0..1",
        f"* view of evaluation: {manifest.evaluation.crop_mode} {manifest.evaluation.crop_pct:g} of the side, "
        f"{manifest.evaluation.interpolation}",
        *(f"* {note}" for note in notes),
    )
    yield from ("", "## Use", "", "```python", use.code, "```")
    if what == "task model" and (classes := task.get("classes")):
        names = [f"`{_quiet(str(name))}`" for name in classes[:MOST_CLASSES]]
        more = [f"and {len(classes) - MOST_CLASSES} more"] if len(classes) > MOST_CLASSES else []
        yield from ("", f"## Classes ({len(classes)})", "", ", ".join([*names, *more]))
    versions = ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
    yield from _history("Training", manifest, versions)
    told = manifest.parents or ((Ancestor(path=manifest.parent),) if manifest.parent else ())
    for ancestor in told:
        yield from _history(f"Started from: {_quiet(_name(ancestor.path))}", ancestor)
    yield from (
        "", "## Licence", "",
        "Not stated. Whoever publishes this adds `license: ...` to the head of this file.",
    )  # fmt: skip


def _history(title: str, told: Manifest | Ancestor, versions: str = "") -> Iterator[str]:
    """Recipe, data and metrics of one training."""
    yield from ("", f"## {title}", "", ", ".join(filter(None, (told.created, versions))) or "Nothing more is known.")
    for part, values in (("recipe", told.recipe), ("data", told.data), ("metrics", told.metrics)):
        rows = [(key, value) for key, value in _flat(values) if value is not None]
        if rows:
            yield from ("", f"| {part} | |", "|---|---|")
            yield from (f"| {_quiet(key)} | {_cell(value)} |" for key, value in rows)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = _name(value) if isinstance(value, str) else json.dumps(value)
    return _quiet(text)


def _name(text: str) -> str:
    """Of a path its name, or its run's; anything else as it is."""
    if "/" not in text or text.startswith(("http://", "https://")):
        return text
    parts = [part for part in text.split("/") if part]
    while len(parts) > 1 and (parts[-1] in ("encoder", "checkpoints", "last", "best") or parts[-1].startswith("step_")):
        parts.pop()
    return parts[-1] if parts else text


def _quiet(text: str) -> str:
    """Other people's words, which must not become markup."""
    return one_line(text).replace("`", "'").replace("|", "\\|").replace("<", "&lt;")


def _windows(windows: Sequence[tuple[int, int]]) -> str:
    return ", ".join(f"{h}" if h == w else f"{h}x{w}" for h, w in windows)
