"""One target under Atheris, in a process of its own: libFuzzer mutates, new branches of edgers keep an input.

python -m fuzz.guided NAME [libFuzzer's options] CORPUS
"""

import sys

import atheris  # type: ignore[import-untyped]

if __name__ == "__main__":
    with atheris.instrument_imports(include=["edgers", "edgers_engines"], enable_loader_override=False):
        from fuzz.targets import TARGETS
    target = TARGETS[sys.argv.pop(1)].run
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()
