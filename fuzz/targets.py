"""What is fuzzed: each target reads hostile bytes and returns, whatever they are.

A target swallows the errors that the code it calls documents, and nothing else. What escapes is a crash; so
is a broken law (`BrokenLawError`), a hang, or memory beyond the runner's limit.
"""

from __future__ import annotations

import copy
import json
import math
import re
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from io import StringIO
from pathlib import Path

import numpy as np
from msgspec.structs import replace
from rich.console import Console
from scipy.special import bdtrc, ndtr, ndtri

from edgers import demo
from edgers.answers import read_answers
from edgers.certificate import Certificate, CertificateError
from edgers.oracle.base import OTHER, RESERVED
from edgers.oracle.choices import Choices
from edgers.oracle.definition import read_definition
from edgers.oracle.json_field import read_field
from edgers.oracle.lint import lint
from edgers.oracle.pattern import spelled, words_of
from edgers.oracle.rules import Rules
from edgers.report.text import certificate_panel
from edgers.smoothing.bounds import clopper_pearson_lower
from edgers.smoothing.radius import certified_radius
from edgers.verify import verify
from edgers_engines import archive, oracle_record
from edgers_engines.bundle import MANIFEST, Bundle
from edgers_engines.errors import BundleError, ImageError, InputError
from edgers_engines.image import Preparation, operator_norm, prepare, read_image
from edgers_engines.manifest import Manifest, signatures
from edgers_engines.noise import check_sigma, total_variation_bound
from edgers_engines.onnx_graph import read_graph
from edgers_engines.prompt import PromptEncoder
from edgers_engines.records import dump, parse
from edgers_engines.resampling import Filter
from edgers_engines.vlm import Answer, Status
from fuzz import seeds
from fuzz.draws import Draws, edited

FILTERS: tuple[Filter, ...] = ("box", "bilinear", "hamming", "bicubic", "lanczos")
SMALL = (MANIFEST, "embed.onnx", "tokenizer.json")


class BrokenLawError(Exception):
    """Something that must hold for every input did not hold for this one."""


def law(holds: object, sentence: str) -> None:
    """Raise `BrokenLawError` unless it holds."""
    if not holds:
        raise BrokenLawError(sentence)


def read_manifest(data: bytes) -> None:
    """A manifest's schema: JSON as it is, or the demo's with edits."""
    text = data if data.startswith(b"{") else _edited(seeds.manifest(), data)
    try:
        found = parse(text, Manifest)
        signatures(found.dimensions, found.preparation.canvas_size, found.precision)
    except ValueError:
        return
    law(parse(dump(found), Manifest) == found, "a manifest that is read can be written and read again")


def load_bundle(data: bytes) -> None:
    """A whole bundle with an edited manifest, or with other bytes for its smallest graph or its tokenizer."""
    draws, root = Draws(data), _bundle_folder()
    name = draws.choice(SMALL)
    for other in SMALL:
        (root / other).write_bytes((demo.BUNDLE / other).read_bytes())
    changed = _edited(seeds.manifest(), draws.rest()) if name == MANIFEST else draws.rest()
    (root / name).write_bytes(changed)
    try:
        Bundle.load(root)
    except BundleError as error:
        law(str(error).isprintable(), "an error is one printable line")
    else:
        law(name == MANIFEST, "a file whose bytes changed is refused")


@cache
def _bundle_folder() -> Path:
    return Path(shutil.copytree(demo.BUNDLE, seeds.folder() / "bundle"))


def read_onnx(data: bytes) -> None:
    """An ONNX graph."""
    try:
        facts = read_graph(data)
    except ValueError as error:
        law(str(error).isprintable(), "an error is one printable line")
        return
    for tensor in facts.external:
        law(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", tensor.location), "a location is a plain name")
        law(tensor.length > 0 <= tensor.offset, "weights lie inside a file")
        law(
            tensor.length == math.prod(tensor.shape) * np.dtype(tensor.dtype).itemsize,
            "weights are as long as their shape says",
        )


def read_picture(data: bytes) -> None:
    """Eight bytes that choose a preparation, then an image file."""
    draws = Draws(data)
    steps = _preparation(draws)
    path = seeds.folder() / "image"
    path.write_bytes(draws.rest())
    try:
        camera = read_image(path)
    except ImageError as error:
        law(str(error).isprintable(), "an error is one printable line")
        return
    law(camera.pixels.dtype == np.uint8 and camera.pixels.size, "pixels are bytes")
    if steps is None or camera.pixels.size > 1 << 18:
        return
    canvas = prepare(camera, steps)
    law(canvas.shape == (3, *steps.canvas_size), "a canvas has the size that was asked for")
    law(np.isfinite(canvas).all() and abs(canvas - 0.5).max() < 3, "a canvas overshoots a little at most")
    norm = operator_norm(camera.size, steps)
    law(math.isfinite(norm) and norm > 0, "an operator norm is a positive number")


def _preparation(draws: Draws) -> Preparation | None:
    sides = [1 + draws.below(64) for _ in range(4)]
    kind, name = draws.below(8), draws.choice(FILTERS)
    try:
        return Preparation(
            exact=(sides[0], sides[1]) if kind & 1 else None,
            shortest_edge=None if kind & 1 else sides[0],
            crop=None if kind & 2 else (sides[2], sides[3]),
            pad=(0.0, 0.5, 1.0) if kind & 4 else None,
            filter=name,
        )
    except ValueError:
        return None


def encode_text(data: bytes) -> None:
    """A prompt and, behind a bar, choices; then the same bytes as the token ids of an answer."""
    prompts, special = _prompts()
    prompt, _, rest = data.decode(errors="surrogateescape").partition("|")
    names = rest.split(",")
    try:
        suffix = prompts.suffix(prompt)
    except InputError:
        return
    after = len(seeds.bundle().manifest.prompt.after)
    law(not special & set(suffix[: len(suffix) - after]), "a prompt never becomes a special token")
    for name in names[:8]:
        try:
            answer = prompts.answer(prompt, name)
        except InputError:
            continue
        law(answer and not special & set(answer), "an answer never becomes a special token")
    vocabulary = seeds.bundle().manifest.dimensions.vocabulary
    ids = [byte % vocabulary for byte in data]
    law(prompts.decode(ids).encode() is not None, "what a model says is valid Unicode")
    _choose(names, prompt, prompts)


def _choose(names: list[str], prompt: str, prompts: PromptEncoder) -> None:
    try:
        choices = Choices(names, prompt, prompts, 2)
    except InputError:
        return
    for name in names:
        tokens = prompts.answer(prompt, name)
        law(
            choices.classify([Answer(tokens, name, Status.COMPLETE, 1.0)]) == [name],
            "choices that are accepted are told apart",
        )
        for length in range(len(tokens)):
            allowed = choices.allowed(tokens[:length])
            law(not allowed or tokens[length] in allowed, "every choice can be reached")


@cache
def _prompts() -> tuple[PromptEncoder, frozenset[int]]:
    added = json.loads(seeds.tokenizer())["added_tokens"]
    # An unknown word is encoded as <unk>: that one means nothing to a model.
    special = {token["id"] for token in added if token["special"] and token["content"] != "<unk>"}
    return PromptEncoder(seeds.bundle()), frozenset(special)


def read_tokenizer(data: bytes) -> None:
    """A tokenizer.json: as it is, or the demo's with edits; then a prompt through it."""
    text = data if data.startswith(b"{") else _edited(seeds.tokenizer(), data)
    bundle = copy.copy(seeds.bundle())
    bundle.read = lambda name: text  # type: ignore[method-assign]  # noqa: ARG005
    try:
        prompts = PromptEncoder(bundle)
        prompts.suffix("what should <image> the robot do?</s>")
        prompts.answer(demo.PROMPT, "left now")
        prompts.decode(range(seeds.bundle().manifest.dimensions.vocabulary))
    except (BundleError, InputError) as error:
        law(str(error).isprintable(), "an error is one printable line")


def check_certificate(data: bytes) -> None:
    """A certificate: JSON as it is, or a real one with edits; if consistent, its claim is computed again."""
    draws = Draws(data)
    text = data if data.startswith(b"{") else _edited(dump(draws.choice(seeds.certificates())), draws.rest())
    try:
        found = parse(text, Certificate)
        verify(found)
    except (ValueError, CertificateError):
        return
    law(parse(found.to_json(), Certificate) == found, "a certificate can be written and read again")
    Console(file=StringIO(), width=100).print(certificate_panel(found, "name"))
    if found.radius is None or not found.certified:
        reached = found.radius is not None and found.radius >= (found.target_radius or 0.0)
        law(
            not found.certified and not reached, "what is certified has a radius, that of its target at least"
        )
        return
    votes = found.votes.certification[found.label]
    law(found.label not in RESERVED, "a reserved class is never certified")
    law(
        bdtrc(votes - 1, found.samples_counted, found.q_lower) <= found.alpha * (1 + 1e-6),
        "q_lower is not above the Clopper-Pearson bound of the votes, by no method",
    )
    radius = found.radius
    law(
        found.assumption.mode == "pairwise"
        or ndtr(radius / found.sigma + ndtri(found.floor)) <= found.p_lower + 1e-9,
        "the radius is not larger than its bound allows; that of a pair rests on two",
    )
    norm = found.preparation.operator_norm
    law((found.radius_camera or 0.0) * norm <= radius * (1 + 1e-9), "nor is the one in camera pixels")


def unpack_archive(data: bytes) -> None:
    """An archive: as it is, or the demo's with some bytes changed."""
    content = data if data.startswith(b"PK") else _patched(Draws(data))
    path, target = seeds.folder() / "archive", seeds.folder() / "unpacked"
    path.write_bytes(content)
    try:
        archive.unpack(path, target)
    except (BundleError, InputError) as error:
        law(str(error).isprintable(), "an error is one printable line")
        law(not target.exists(), "an archive that is refused leaves nothing")
        law(not list(seeds.folder().glob(".edgers-*")), "nor a scratch folder")
    else:
        shutil.rmtree(target)
        law(content == seeds.packed(), "a changed archive is refused")


def _patched(draws: Draws) -> bytes:
    """The demo's archive with bytes changed at its headers, its small files and its directory, or cut off."""
    content = bytearray(seeds.packed())
    whole, telling = len(content), 64 << 10
    for _ in range(1 + draws.below(4)):
        place = draws.below(2 * telling)
        content[place if place < telling else whole - 2 * telling + place] ^= draws.below(256)
    cut = draws.below(256)
    return bytes(content[: whole - cut] if cut < 128 else content)


def match_rules(data: bytes) -> None:
    """Lines of pattern!exception!...=label, the first of them perhaps @field; the last line is an answer."""
    *lines, answer = data.decode(errors="surrogateescape").split("\n")
    field = lines.pop(0)[1:] if lines and lines[0].startswith("@") else None
    rules = tuple(map(_rule, lines[:40]))
    try:
        definition = oracle_record.Rules(name="fuzzed", rules=rules, field=field)
        oracle = Rules(definition)
    except (InputError, UnicodeError):  # a manifest is valid Unicode before it becomes rules
        return
    label = oracle.classify_text(answer)
    law(label in (*oracle.record.classes, OTHER), "an answer gets a class of the oracle, or OTHER")
    law(label not in RESERVED or label == OTHER, "no rule makes a reserved class")
    law(oracle.classify_text(answer.upper().upper()) in (*oracle.record.classes, OTHER), "so in capitals")
    if field is not None:
        law(label == OTHER or answer.count("{"), "a field is read from an object")
        answer, oracle = read_field(answer, field) or "", Rules(replace(definition, field=None))
    if len(rules) <= 8:  # a search takes its time
        _lint(definition, oracle, answer)


def _rule(line: str) -> oracle_record.Rule:
    patterns, _, label = line.partition("=")
    pattern, *unless = patterns.split("!")
    return oracle_record.Rule(pattern=pattern, label=label, unless=tuple(unless[:4]))


def _lint(definition: oracle_record.Rules, oracle: Rules, text: str) -> None:
    """What the linter says of rules holds for a text."""
    words = spelled(words_of(text))
    matching = [number for number, rule in enumerate(oracle.rules, 1) if rule.matches(words)]
    for finding in lint(definition).rules:
        first = matching[:1] == [finding.number]
        law(not first or finding.status != "unreachable", "what is called unreachable is not reached")
        if finding.example is not None:
            law(oracle.classify_text(finding.example) == finding.label, "an example reaches its rule")
        if first and finding.status == "redundant":
            following = oracle.rules[matching[1] - 1] if matching[1:] else None
            law(following and following.label == finding.label, "what is redundant can be left out")


def read_oracle(data: bytes) -> None:
    """A file that defines an oracle: as it is, or a real one with edits; then the same as stored answers."""
    draws, path = Draws(data), seeds.folder() / "oracle.json"
    text = data if data.startswith(b"{") else _edited(draws.choice(seeds.definitions()), draws.rest())
    path.write_bytes(text)
    with suppress(InputError):
        read_answers([path])
    try:
        found = read_definition(path)
    except InputError:
        return
    path.write_bytes(dump(found))
    law(read_definition(path) == found, "a definition that is read can be written and read again")
    if isinstance(found, oracle_record.Rules):
        with suppress(InputError):
            labels = Rules(found).classify_texts(["left, a box", '{"action": "left"}'])
            law({*labels} <= {*found.classes, OTHER}, "a label is a class of the rules, or OTHER")


def bound_and_radius(data: bytes) -> None:
    """Votes, samples, alpha, sigma and floor to bound, radius and the sampler's distance."""
    draws = Draws(data)
    votes, samples, alpha, sigma, floor = (draws.number() for _ in range(5))
    _law_of_noise(sigma, 1 + draws.below(1 << 24))
    try:
        # Counts are integers by the schema; a float that is none is for the command line to refuse.
        lower = clopper_pearson_lower(_whole(votes), _whole(samples), alpha)
        radius = certified_radius(lower, sigma, floor)
    except ValueError:
        return
    k, n = _whole(votes), _whole(samples)
    law(0 <= lower.value <= k / n and lower.complement <= 1, "a lower bound is at most the share of votes")
    law(abs(lower.value + lower.complement - 1) < 1e-9, "value and complement are of one probability")
    if n <= 10**6 and k:
        law(bdtrc(k - 1, n, lower.value) <= alpha * (1 + 1e-6), "the bound errs at most alpha often")
    if radius is not None:
        law(math.isfinite(radius) and radius > 0, "a radius is a positive number")
        law(lower.value >= floor, "only what is above the floor has a radius")


def _law_of_noise(sigma: float, values: int) -> None:
    try:
        distance = total_variation_bound(values, check_sigma(sigma))
    except InputError:
        return
    law(math.isfinite(distance) and distance > 0, "the sampler is at some finite distance from the ideal")


def _whole(number: float) -> int:
    return int(number) if math.isfinite(number) else 0


def _edited(text: bytes, data: bytes) -> bytes:
    """JSON text with edits; lone surrogates and NaN are spelled as Python's json spells them."""
    return json.dumps(edited(json.loads(text), Draws(data))).encode()


@dataclass(frozen=True)
class Target:
    """One target: how to run it, where to begin, how many inputs `make fuzz` tries, how long one may be."""

    run: Callable[[bytes], None]
    seeds: Callable[[], Sequence[bytes]]
    inputs: int
    longest: int = 1024


TARGETS = {
    "numbers": Target(bound_and_radius, lambda: seeds.EDITS, 500_000, 64),
    "rules": Target(match_rules, seeds.rules, 60_000),  # the linter searches: dearer than the rest
    "oracle": Target(read_oracle, lambda: (*seeds.EDITS, *seeds.definitions()), 100_000, 4096),
    "text": Target(encode_text, seeds.prompts, 300_000),
    "graph": Target(read_onnx, seeds.graphs, 200_000, 2048),
    "image": Target(read_picture, seeds.images, 200_000, 2048),
    "tokenizer": Target(read_tokenizer, lambda: (*seeds.EDITS, seeds.tokenizer()), 100_000, 4096),
    "certificate": Target(
        check_certificate, lambda: (*seeds.EDITS, *map(dump, seeds.certificates())), 100_000, 6_000
    ),
    "manifest": Target(read_manifest, lambda: (*seeds.EDITS, seeds.manifest()), 60_000, 12_000),
    "bundle": Target(load_bundle, lambda: seeds.EDITS, 5_000, 512),
    "archive": Target(unpack_archive, lambda: (*seeds.PATCHES, seeds.packed()[:16_000]), 3_000, 16_000),
}
