from bundle.wheels import not_locked


def test_dependency_that_the_lock_lacks_is_named() -> None:
    lock = "aiohttp==3.14.5 \\\n    --hash=sha256:00\nredis==8.1.0 \\\n"
    assert not_locked(["aiohttp>=3.13", "redis", "zstandard>=0.25"], lock) == ["zstandard"]
