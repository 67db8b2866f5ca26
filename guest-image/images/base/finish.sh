#!/bin/sh
# What packages and overlay files cannot say. Runs on the building machine with the image's root as $1.
set -eu
root=$1

chroot "$root" useradd --uid 1000 --user-group --create-home --shell /bin/bash user
chmod 0440 "$root/etc/sudoers.d/user"

# A cell may work there, as in E2B's image, where cells are root's. It keeps no secret: `user` has sudo.
chmod 0755 "$root/root"

# Debian keeps pip away from its own Python; a sandbox is thrown away, and E2B's image lets `pip install` through.
rm "$root"/usr/lib/python3*/EXTERNALLY-MANAGED

# For `sudo apt-get install` in a sandbox: the sources of Debian 12 as apt's own example has them.
sed -n 's/^deb \(\S*\) \(\S*\) .*/deb \1 \2 main/p' "$root/usr/share/doc/apt/examples/sources.list" >"$root/etc/apt/sources.list"

# Left by the build, of the building machine, or made anew by every sandbox.
rm -f "$root/etc/resolv.conf" "$root/etc/hostname" "$root/var/lib/dbus/machine-id" "$root/var/cache/ldconfig/aux-cache"
find "$root/var/log" "$root/var/cache/debconf" -type f -delete
rm -rf "$root/root/.cache" "$root/home/user/.cache"
: >"$root/etc/machine-id"
