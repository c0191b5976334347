"""A bundle asked without an image gives PyTorch's own logits for the text."""

import numpy as np
import pytest
import torch
from transformers import LlavaForConditionalGeneration

from edgers_engines.self_test import forced_logits
from edgers_engines.text_only import TextQuestion
from edgers_engines.vlm import VisionLanguageModel
from tests.conftest import CHECKPOINT

STEPS = 6
PROMPTS = ("Which way should the robot go?", "Is a person in the way, or a box?")


@pytest.fixture(scope="module", params=["demo", "miniature"])
def pair(request):
    """A bundle's runtime, and its checkpoint in PyTorch."""
    demo = request.param == "demo"
    bundle = request.getfixturevalue("demo_bundle" if demo else "miniature")
    checkpoint = CHECKPOINT if demo else request.getfixturevalue("miniature_checkpoint")
    torch_model = LlavaForConditionalGeneration.from_pretrained(checkpoint, local_files_only=True).eval()
    return VisionLanguageModel(bundle), torch_model


def wanted(torch_model, ids):
    """Greedy tokens, and the logits they were chosen by: [steps, vocabulary]."""
    tokens, logits = [], []
    with torch.no_grad():
        for _ in range(STEPS):
            found = torch_model(input_ids=torch.tensor([[*ids, *tokens]])).logits[0, -1]
            logits.append(found.numpy())
            tokens.append(int(found.argmax()))
    return tokens, np.array(logits)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_text_alone_has_the_logits_and_tokens_of_pytorch(pair, prompt):
    runtime, torch_model = pair
    suffix = runtime.prompts.suffix(prompt)
    tokens, logits = wanted(torch_model, (*runtime.prompts.prefix, *suffix))
    no_image = np.empty((1, 0, runtime.bundle.manifest.dimensions.hidden), np.float32)
    found = forced_logits(runtime, no_image, prompt, np.array(tokens)[:, None])
    assert np.abs(found[:, 0] - logits).max() < 1e-3
    (answer,) = TextQuestion(runtime, [suffix], max_new_tokens=STEPS).answers()
    end = runtime.bundle.manifest.decoding.end_tokens[0]
    assert list(answer.tokens) == tokens[: tokens.index(end) if end in tokens else None]
