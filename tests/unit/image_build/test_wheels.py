from __future__ import annotations

from image_build.wheels import format_lock


def test_a_lock_is_pips_own_format_in_a_fixed_order() -> None:
    report = {
        "install": [
            {
                "metadata": {"name": name, "version": version},
                "download_info": {"url": "elsewhere", "archive_info": {"hashes": {"sha256": sha256}}},
            }
            for name, version, sha256 in (("uvicorn", "1.0", "bb"), ("Jinja2", "3.1", "aa"))
        ]
    }
    assert format_lock(report, source="requirements.txt").splitlines()[1:] == [
        "Jinja2==3.1 --hash=sha256:aa",
        "uvicorn==1.0 --hash=sha256:bb",
    ]
