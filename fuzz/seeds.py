"""Where fuzzing begins: real manifests, graphs, images, tokenizers, certificates, archives."""

from __future__ import annotations

import atexit
import io
import json
import shutil
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from edgers import demo
from edgers.certificate import Certificate
from edgers.certify import Certifier
from edgers.smoothing.oracle_error import Calibrated
from edgers_engines import archive
from edgers_engines.bundle import Bundle

EDITS = (bytes(1), bytes(range(1, 40)), bytes(range(255, 200, -1)), b"\3" * 30)
PATCHES = (b"\0\0\0\0", b"\0\1\x10\x01\0", b"\2\0\0\0\1\1\1\xff\xff\xff", b"\1" * 16)


@cache
def folder() -> Path:
    """A folder for the process' own files."""
    path = Path(tempfile.mkdtemp(prefix="edgers-fuzz-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


@cache
def bundle() -> Bundle:
    """The demo bundle."""
    return demo.load_bundle()


@cache
def manifest() -> bytes:
    """The demo bundle's manifest."""
    return (demo.BUNDLE / "manifest.json").read_bytes()


@cache
def tokenizer() -> bytes:
    """The demo bundle's tokenizer."""
    return bundle().read(bundle().manifest.tokenizer)


@cache
def certificates() -> tuple[Certificate, ...]:
    """Real ones: choices, free text, winners that are never certified, a target, a claim of truth."""
    oracles = [oracle.name for oracle in bundle().manifest.oracles]
    certifier = Certifier(bundle(), sigma=demo.SIGMA, samples=24, selection=4)
    early = Certifier(
        bundle(),
        sigma=demo.SIGMA,
        samples=80,
        method="sequential",
        target_radius=0.1,
        mode=Calibrated(1, 900),
        floor=0.6,
    )
    frame, seed = demo.frames()[0], "0" * 32
    return (
        early.accounted("schedule", 2).certify(frame, demo.PROMPT, choices=demo.ACTIONS, seed=seed),
        certifier.certify(frame, demo.PROMPT, choices=demo.ACTIONS, seed=seed),
        *(certifier.certify(frame, demo.PROMPT, oracle=name, seed=seed) for name in oracles),
    )


@cache
def packed() -> bytes:
    """The demo bundle as an archive."""
    path = folder() / "seed.bundle"
    archive.pack(demo.BUNDLE, path)
    content = path.read_bytes()
    path.unlink()
    return content


def graphs() -> tuple[bytes, ...]:
    """The demo's smallest graph, and one with every kind of message that is allowed."""
    return (demo.BUNDLE / "embed.onnx").read_bytes(), _small_graph()


def _small_graph() -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Constant", [], ["two"], value=numpy_helper.from_array(np.float32(2), "")),
        helper.make_node("MatMul", ["x", "weight"], ["product"], name="product"),
        helper.make_node("Clip", ["product", "", "two"], ["clipped"]),
        helper.make_node("Gemm", ["clipped", "square"], ["y"], alpha=0.5, transB=1, doc_string="note"),
        helper.make_node("Constant", [], ["ints"], value_ints=[1, -2, 3]),
        helper.make_node("Cast", ["y"], ["half"], to=TensorProto.FLOAT16),
    ]
    weight = numpy_helper.from_array(np.zeros((2, 3), np.float32), "weight")
    square = numpy_helper.from_array(np.eye(3, dtype=np.float32), "square")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "weights.bin"), ("offset", "64"), ("length", "24")):
        weight.external_data.add(key=key, value=value)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "main",
        [value("x", TensorProto.FLOAT, ["batch", 2])],
        [value("half", TensorProto.FLOAT16, ["batch", 3]), value("ints", TensorProto.INT64, [3])],
        [weight, square],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=10)
    model.metadata_props.add(key="note", value="α")
    return bytes(model.SerializeToString())


def images() -> tuple[bytes, ...]:
    """Small images of every format and kind that is accepted, and of some that are not."""
    colours = Image.fromarray(np.arange(12 * 9 * 3, dtype=np.uint8).reshape(12, 9, 3))
    turned = Image.Exif()
    turned[0x0112] = 6
    kinds: tuple[tuple[Image.Image, dict[str, object]], ...] = (
        (colours, {"format": "PNG"}),
        (colours, {"format": "JPEG"}),
        (colours, {"format": "JPEG", "progressive": True, "exif": turned}),
        (colours, {"format": "WEBP", "lossless": True}),
        (colours, {"format": "WEBP", "quality": 50, "exif": turned}),
        (colours.convert("L"), {"format": "PNG"}),
        (colours.convert("P"), {"format": "PNG"}),
        (colours.convert("1"), {"format": "PNG"}),
        (colours.convert("RGBA"), {"format": "PNG"}),
        (colours.convert("CMYK"), {"format": "JPEG"}),
        (colours, {"format": "GIF"}),
    )
    return tuple(bytes(8) + _saved(image, options) for image, options in kinds)


def _saved(image: Image.Image, options: dict[str, object]) -> bytes:
    out = io.BytesIO()
    image.save(out, **options)  # type: ignore[arg-type]
    return out.getvalue()


def prompts() -> tuple[bytes, ...]:
    """Prompts and choices, with every special token of the demo's tokenizer among them."""
    special = "<image> </s> <s> <pad> <unk>"
    texts = (
        f"{demo.PROMPT}|left,right",
        f"{special}|left,{special}",
        "left|left right,left",
        "ﬁ e\u0301 \u202e👩\u200d🚀\0|LEFT,left",
        "a\n\t|OTHER,",
    )
    return tuple(text.encode() for text in texts)


def definitions() -> tuple[bytes, ...]:
    """A file of every kind of oracle, and a line of stored answers."""
    asked = [
        {"kind": "endpoint", "base_url": "http://127.0.0.1:1/v1", "model": "m", "key_env": "KEY"},
        {"kind": "bundle", "path": "judge", "digest": "0" * 64},
        {"kind": "checkpoint", "path": "model"},
    ]
    judges = [
        {
            "kind": "judge",
            "name": "j",
            "classes": ["same", "different"],
            "instructions": "<{text}>",
            "asks": asks,
        }
        for asks in asked
    ]
    rules = [
        {"pattern": "left *", "label": "left"},
        {"pattern": "*", "unless": ["* not *"], "label": "right"},
    ]
    return tuple(
        json.dumps(each).encode()
        for each in (
            {"kind": "rules", "name": "r", "rules": rules, "field": "action"},
            *judges,
            {"kind": "clusters", "name": "c", "judge": judges[0]},
            {"text": "left, a box", "label": "left", "image": "1.png", "sigma": 0.5, "detour": True},
        )
    )


def rules() -> tuple[bytes, ...]:
    """Rules, a line each, some with exceptions or a field; then an answer."""
    return (
        b"left *=left\n* right *=right\nturn right, now",
        b"* a * a * a * b=x\na a a a a a a a a a a",
        "straße=weg\n*=OTHER\nSTRASSE".encode(),
        b"don't=stop\n =x\n\xff\xfe",
        b"* bad *!* not bad *!* isn't bad *=x\n* bad=y\n* not bad *=x\nit is not bad",
        b'@action\nleft *=left\n*=x\n```json\n{"why": ["{", 1e9], "action": "left now"}\n```',
    )
