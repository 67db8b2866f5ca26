from bundle.debian import files_to_fetch


def test_names_of_archives_are_read_and_other_lines_passed_over() -> None:
    uris = """\
Reading package lists...
'http://mirror/qemu-utils_10.0.2%2bds-2_amd64.deb' qemu-utils_1%3a10.0.2+ds-2_amd64.deb 2034 SHA256:00
'http://mirror/curl_7.88.1_amd64.deb' curl_7.88.1_amd64.deb 315 SHA256:11
"""
    assert files_to_fetch(uris) == ["qemu-utils_1%3a10.0.2+ds-2_amd64.deb", "curl_7.88.1_amd64.deb"]
