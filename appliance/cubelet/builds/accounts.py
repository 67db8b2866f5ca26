"""Users in the guest: what scripts make them, in images of any distribution, as root and safe to repeat.

The scripts are POSIX shell and take what varies as arguments, never as text. `useradd` comes first, as it knows the
distribution's rules; where an image has neither it nor busybox' `adduser`, the account files are written by hand.
"""

from __future__ import annotations

SHELL = "/bin/sh"

_MAKE_ACCOUNT = r"""
make_account() {
    name=$1 wanted_uid=$2
    grep -q "^$name:" /etc/passwd 2>/dev/null && return 0
    [ -n "$wanted_uid" ] && grep -q "^[^:]*:[^:]*:$wanted_uid:" /etc/passwd 2>/dev/null && wanted_uid=
    shell=/bin/bash
    [ -x $shell ] || shell=/bin/sh
    if command -v useradd >/dev/null 2>&1; then
        group=--user-group
        grep -q "^$name:" /etc/group && group="--gid $name"
        useradd --create-home --home-dir "/home/$name" --shell $shell $group ${wanted_uid:+--uid $wanted_uid} "$name"
    elif command -v adduser >/dev/null 2>&1; then
        adduser -D -h "/home/$name" -s $shell ${wanted_uid:+-u $wanted_uid} "$name"
    else
        uid=${wanted_uid:-1000}
        while grep -q "^[^:]*:[^:]*:$uid:" /etc/passwd /etc/group 2>/dev/null; do uid=$((uid + 1)); done
        gid=$uid
        echo "$name:x:$gid:" >>/etc/group
        echo "$name:x:$uid:$gid::/home/$name:$shell" >>/etc/passwd
        [ ! -e /etc/shadow ] || echo "$name:*:19000:0:99999:7:::" >>/etc/shadow
        mkdir -p "/home/$name"
        chown "$uid:$gid" "/home/$name"
    fi
}

let_sudo() {
    mkdir -p /etc/sudoers.d
    echo "$1 ALL=(ALL:ALL) NOPASSWD: ALL" >"/etc/sudoers.d/$1"
    chmod 0440 "/etc/sudoers.d/$1"
    if [ -e /etc/sudoers ] && ! grep -q '^[#@]includedir /etc/sudoers.d' /etc/sudoers; then
        echo '@includedir /etc/sudoers.d' >>/etc/sudoers
    fi
}
"""

PROVISION = (
    "set -e\n"
    + _MAKE_ACCOUNT
    + r"""
missing() {
    for program in bash sudo curl git ss pgrep tar; do
        command -v $program >/dev/null 2>&1 || echo $program
    done
}
lacking=$(missing)
if [ -n "$lacking" ] && command -v apt-get >/dev/null 2>&1; then
    packages=ca-certificates
    for program in $lacking; do
        case $program in
            ss) packages="$packages iproute2" ;;
            pgrep) packages="$packages procps" ;;
            *) packages="$packages $program" ;;
        esac
    done
    echo "installing $packages"
    export DEBIAN_FRONTEND=noninteractive
    # Without a network this must fail soon, and the build go on.
    quick='-o Acquire::http::Timeout=15 -o Acquire::https::Timeout=15 -o Acquire::Retries=1'
    { apt-get $quick -q update && apt-get $quick -q install -y --no-install-recommends $packages; } ||
        echo 'apt-get could not install them' >&2
fi
[ -e /etc/passwd ] || echo 'root:x:0:0:root:/root:/bin/sh' >/etc/passwd
[ -e /etc/group ] || echo 'root:x:0:' >/etc/group
make_account user 1000
let_sudo user
mkdir -p /home/user
chown user:user /home/user
lacking=$(missing)
[ -z "$lacking" ] || echo "MISSING" $lacking
"""
)
"""Makes E2B's default user. Prints, as its last line, `MISSING` and the programs that templates count on."""

MISSING = "MISSING "

ADD_USER = (
    "set -e\n"
    + _MAKE_ACCOUNT
    + r"""
make_account "$1" ''
[ "$2" != sudo ] || let_sudo "$1"
"""
)
"""Arguments: name, and `sudo` or nothing."""

MAKE_WORKDIR = r"""
set -e
target=$1 owner=$2
if [ ! -d "$target" ]; then
    # Of the path, what is new is the user's; what was there keeps its owner.
    new=$target
    while parent=$(dirname "$new") && [ ! -d "$parent" ]; do new=$parent; done
    mkdir -p "$target"
    group=$(id -g "$owner")
    chown -R "$owner:$group" "$new"
fi
cd "$target"
pwd
"""
"""Arguments: absolute path, owner. Prints the path as it is without `..` and doubled slashes."""


def script(text: str, name: str, *arguments: str) -> tuple[str, ...]:
    """Return the argv that runs a script in the guest."""
    return (SHELL, "-c", text, name, *arguments)
