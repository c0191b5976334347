"""`edgers inspect`: what a bundle is, after checking all of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgers.cli.options import PATH, json_option
from edgers.cli.output import print_json, stdout
from edgers_engines.errors import printable

if TYPE_CHECKING:
    from edgers_engines.bundle import Bundle
    from edgers_engines.manifest import Manifest, Parity
    from edgers_engines.memory import Memory
    from edgers_engines.oracle_record import Classifier, Clusters, Rule, Rules

Rows = Iterator[tuple[str, str]]


@click.command("inspect")
@click.argument("path", type=PATH, metavar="[BUNDLE]", required=False)
@json_option
def command(*, path: Path | None, as_json: bool) -> int:
    """Check a bundle's files and manifest and show what it is; the demo bundle unless one is given."""
    from edgers.demo import load_bundle
    from edgers_engines.memory import needed

    bundle = load_bundle(path)
    m = bundle.manifest
    memory = needed(m)
    if as_json:
        print_json({"digest": bundle.digest, "memory": memory, "manifest": m})
        return 0
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for name, value in (*_identity(bundle), *_model(m), *_memory(memory), *_trust(m)):
        table.add_row(Text(name, style="dim"), Text(printable(value), overflow="fold"))
    stdout().print(table)
    return 0


def _identity(bundle: Bundle) -> Rows:
    m = bundle.manifest
    tools = ", ".join(f"{tool} {version}" for tool, version in m.provenance.tools.items())
    yield "name", f"{m.name}, licence {m.licence}"
    yield "digest", bundle.digest
    yield "folder", str(bundle.path)
    yield "source", f"{m.provenance.source}, weights {m.provenance.weights_sha256}"
    yield "written by", tools


def _model(m: Manifest) -> Rows:
    size, template = m.dimensions, m.prompt
    height, width = m.preparation.canvas_size
    yield "family", f"{m.family}, {m.numbers}, ONNX opset {m.opset}"
    frame = m.preparation.frame
    made_for = "" if not frame else f" of {frame[1]}×{frame[0]} images and others of that shape"
    yield (
        "image",
        f"{width}×{height} canvas{made_for}, {m.preparation.filter}, {size.image_tokens} tokens",
    )
    yield (
        "prompt",
        f"{len(template.before_image)} tokens, <image>, "
        f"{template.text_before + 'PROMPT' + template.text_after!r}, {len(template.after)} tokens",
    )
    yield (
        "decoder",
        f"{size.layers} layers, hidden {size.hidden}, {size.kv_heads} KV heads of {size.head_dim}, "
        f"vocabulary {size.vocabulary}, up to {size.max_length} positions",
    )
    if m.graphs.cuda_decoder:
        yield "on CUDA", f"ONNX Runtime decodes by {m.graphs.cuda_decoder.file}, in operators of its own"
    yield "answers", f"greedy, up to {m.decoding.max_new_tokens} tokens, end tokens {m.decoding.end_tokens}"


def _memory(memory: Memory) -> Rows:
    yield (
        "memory",
        f"{memory.weights / 1e6:.1f} MB for the weights, up to {memory.sample / 1e6:.1f} MB for each sample "
        f"in a batch ({memory.cache / 1e6:.1f} of them cache), and what the runtime needs while it computes",
    )


def _trust(m: Manifest) -> Rows:
    steps, cuda = m.self_test.steps, m.graphs.cuda_decoder
    yield "parity", _parity(m.parity)
    if cuda:
        yield f"of {cuda.file}", _parity(cuda.parity)
    yield (
        "self-test",
        f"{len(steps)} steps of {len(steps[0])} rows when it is loaded, to within the margin tolerance "
        f"{m.decoding.margin_tolerance:.2g}",
    )
    for file in m.files:
        yield "file", f"{file.path}, {file.size} bytes, SHA-256 {file.sha256}"
    for oracle in m.oracles:
        yield f"oracle {oracle.name}", _oracle(oracle)
    if not m.oracles:
        yield "oracles", "none: ask it with --choices"


def _parity(parity: Parity) -> str:
    return (
        f"{parity.equal_tokens}/{parity.tokens} tokens as PyTorch; largest difference of a logit "
        f"{parity.largest_logit_difference:.2g}, of a feature {parity.largest_feature_difference:.2g}"
    )


def _oracle(oracle: Rules | Classifier | Clusters) -> str:
    from edgers_engines.oracle_record import Clusters, Rules

    if isinstance(oracle, Rules):
        what = "" if oracle.field is None else f"field {oracle.field!r} of JSON: "
        return what + "; ".join(map(_rule, oracle.rules))
    if isinstance(oracle, Clusters):
        same, different = oracle.same, oracle.different
        return (
            f"clusters of texts with a cosine above {oracle.threshold:g}: of held-out pairs "
            f"{same.matching} of {same.pairs} with one label match, and {different.matching} of "
            f"{different.pairs} with two; texts of up to {oracle.max_tokens} tokens"
        )
    images = sum(each.count for each in oracle.calibration)
    known = f"calibrated on answers about {images} images" if images else "not calibrated"
    return f"classifier of {', '.join(oracle.classes)}; texts of up to {oracle.max_tokens} tokens; {known}"


def _rule(rule: Rule) -> str:
    unless = " or ".join(rule.unless)
    return f"{rule.pattern}{unless and f' unless {unless}'} → {rule.label}"
