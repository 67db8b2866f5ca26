#!/bin/bash
# The start command of E2B's image, /root/.jupyter/start-up.sh, which templates built upon it name.
# There all of it runs as root. Here cells are those of whoever called sudo, as they are where the image's own command
# starts them: what cells write, commands of that user can change.
set -eu

owner=${SUDO_USER:-user}
HOME=$(getent passwd "$owner" | cut -d: -f6)
export HOME USER=$owner LOGNAME=$owner
cd "$HOME"
exec setpriv --reuid="$owner" --regid="$(id -g "$owner")" --init-groups /opt/code-interpreter/start.sh
