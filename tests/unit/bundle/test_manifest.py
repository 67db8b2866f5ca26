from pathlib import Path

import pytest

from bundle import manifest


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "one.whl").write_bytes(b"one")
    manifest.write(tmp_path)
    return tmp_path


def test_manifest_names_every_file_with_its_sum(bundle: Path) -> None:
    assert (bundle / "SHA256SUMS").read_text() == (
        "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed  wheels/one.whl\n"
    )


def test_manifest_that_holds_is_not_written_again(bundle: Path) -> None:
    before = (bundle / "SHA256SUMS").stat().st_mtime_ns
    manifest.write(bundle, kept=["wheels"])
    assert (bundle / "SHA256SUMS").stat().st_mtime_ns == before


def test_damage_to_a_kept_part_is_not_vouched_for(bundle: Path) -> None:
    (bundle / "wheels" / "one.whl").write_bytes(b"two")
    with pytest.raises(SystemExit, match=r"wheels/one\.whl"):
        manifest.write(bundle, kept=["wheels"])


def test_part_that_was_built_anew_gets_new_sums(bundle: Path) -> None:
    (bundle / "wheels" / "one.whl").write_bytes(b"two")
    manifest.write(bundle)
    assert "7692c3ad" not in (bundle / "SHA256SUMS").read_text()
