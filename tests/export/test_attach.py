"""A bundle gets one more oracle: a new digest, everything else as it was, and nothing is half there."""

import shutil

import pytest

from edgers_engines.bundle import Bundle
from edgers_engines.errors import BundleError, InputError
from edgers_export.attach import attach


def test_a_taught_bundle_is_the_old_one_and_three_files(demo_bundle, taught_bundle):
    old, new = demo_bundle.manifest, taught_bundle.manifest
    assert new.oracles[:-1] == old.oracles
    added = {"oracle-learned.onnx", "oracle-learned.bin", "oracle-learned.json"}
    assert {file.path for file in new.files} - {file.path for file in old.files} == added
    assert {file.path: file for file in old.files}.items() <= {file.path: file for file in new.files}.items()
    assert taught_bundle.digest != demo_bundle.digest


def test_a_leads_tolerance_is_wider_than_what_was_measured_beside_pytorch(taught_bundle, student):
    *_, record = taught_bundle.manifest.classifiers
    assert 0 < record.margin_tolerance < 1e-2
    assert record.classes == student.classes
    assert len(record.self_test) == 4


@pytest.mark.parametrize("end", ["onnx", "bin", "json"])
def test_one_changed_byte_of_an_oracle_is_refused(taught_bundle, tmp_path, end):
    copy = shutil.copytree(taught_bundle.path, tmp_path / "bundle")
    path = copy / f"oracle-learned.{end}"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=rf"oracle-learned\.{end} has SHA-256"):
        Bundle.load(copy)


def test_a_name_that_is_taken_is_refused(taught_bundle, student, tmp_path):
    with pytest.raises(InputError, match="has an oracle 'learned' already"):
        attach(taught_bundle, student, "learned", ["stop"], tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_name_that_no_file_can_have_is_refused_and_leaves_nothing(demo_bundle, student, tmp_path):
    with pytest.raises((BundleError, InputError), match="name"):
        attach(demo_bundle, student, "a b", ["stop"], tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_a_second_oracle_stands_beside_the_first(taught_bundle, student, tmp_path):
    both = attach(taught_bundle, student, "again", ["stop", "left, a box."], tmp_path / "both")
    assert [oracle.name for oracle in both.manifest.classifiers] == ["robot-action", "learned", "again"]
