"""A LLaVA of a billion parameters, from checkpoint to certificate: python bench/large.py [FOLDER].

Random weights, the shape of a TinyLlama with a CLIP-L/14 tower at 336 pixels. Every step is a process of its
own, timed from outside; the peak memory is the operating system's account of it, beside the size of the
weights in float32. Needs 15 GB of disk.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROMPT, CHOICES = "Which way?", "left,right"


def write(folder: Path) -> None:
    """The checkpoint, shard by shard."""
    from tests.checkpoints import Miniature
    from tests.checkpoints import write as write_checkpoint

    large = Miniature(
        shard="1GB",
        text={
            "hidden_size": 2048,
            "intermediate_size": 5632,
            "num_hidden_layers": 16,
            "num_attention_heads": 32,
            "num_key_value_heads": 4,
            "vocab_size": 32000,
            "max_position_embeddings": 2048,
        },
        vision_options={
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": 336,
            "patch_size": 14,
        },
    )
    write_checkpoint(large, folder)


def measured(name: str, command: list[str], weights: float) -> None:
    """Run one step and print its seconds and peak memory."""
    start = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    output = child.stdout.read() if child.stdout else ""
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode in {0, 10}, command
    peak = usage.ru_maxrss * 1024
    seconds = time.perf_counter() - start
    print(
        f"{name:10} {seconds:7.1f} s  peak {peak / 1e9:5.2f} GB = {peak / weights:.2f} x the weights in fp32"
    )
    print(f"           {output.strip()[:400]}", flush=True)


def main(root: Path) -> None:
    """Write, export, certify."""
    from PIL import Image

    checkpoint, bundle, image = root / "checkpoint", root / "bundle", root / "frame.png"
    # A process of its own: a child's peak would begin with that of the process that started it.
    writer = multiprocessing.get_context("spawn").Process(target=write, args=(checkpoint,))
    writer.start()
    writer.join()
    weights = sum(shard.stat().st_size for shard in checkpoint.glob("*.safetensors"))
    print(f"{weights / 4e6:.0f} million parameters, {weights / 1e9:.2f} GB in float32", flush=True)
    Image.linear_gradient("L").resize((640, 480)).convert("RGB").save(image)
    edgers = [sys.executable, "-m", "edgers"]
    measured("export", [*edgers, "export", str(checkpoint), "--out", str(bundle), "--json"], weights)
    certify = [*edgers, "certify", str(image), "--bundle", str(bundle), "--prompt", PROMPT]
    certify += ["--choices", CHOICES, "--sigma", "0.25", "--samples", "10", "--selection", "2"]
    measured("certify", [*certify, "--batch-size", "5", "--json"], weights)


sys.path.insert(0, str(Path(__file__).parent.parent))  # for `tests`, in the writer's process too
if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(Path(folder))
