"""docs/robustness.md counts cases: the counts are those of the tests."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
ROW = re.compile(
    r"^\| (?P<what>[^|]+) \| (?P<count>[\d,]+) \| `pytest --collect-only -q (?P<where>[^`]+)` \|$", re.M
)


def test_the_page_on_robustness_counts_the_cases_that_there_are():
    rows = list(ROW.finditer((ROOT / "docs" / "robustness.md").read_text()))
    assert len(rows) >= 5
    places = {place for row in rows for place in row["where"].split()}
    collected = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *sorted(places)],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
    ).stdout.splitlines()
    for row in rows:
        within = re.compile("|".join(rf"{re.escape(place)}(\[|::|$)" for place in row["where"].split()))
        found = sum(within.match(line) is not None for line in collected if "::" in line)
        assert int(row["count"].replace(",", "")) == found, row["what"]
