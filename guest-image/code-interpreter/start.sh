#!/bin/bash
# Supervisor of the code interpreter: starts the Jupyter server and the code interpreter's own server, and
# starts again whichever ends. The contexts live in the Jupyter server's kernels, so when it ends both start anew.
set -u

root=$(dirname "$(readlink -f "$0")")
python=${CODE_INTERPRETER_PYTHON:-$root/venv/bin/python}
home=${CODE_INTERPRETER_HOME:-/home/user}
host=${CODE_INTERPRETER_HOST:-0.0.0.0}
port=${CODE_INTERPRETER_PORT:-49999}
jupyter_port=${CODE_INTERPRETER_JUPYTER_PORT:-49998} # not 8888, which is for a Jupyter of the user's own
restart_delay=0.2 # seconds; keeps a program that cannot start from using up the processor

export CODE_INTERPRETER_JUPYTER_URL=http://127.0.0.2:$jupyter_port
export HOME=${HOME:-/home/user} LANG=${LANG:-C.UTF-8}
warm_imports=${CODE_INTERPRETER_WARM_IMPORTS-numpy, pandas, matplotlib.pyplot}
jupyter= server=

# Python looks for the user's own packages only in a folder that is there when it starts, and the kernels start first.
make_user_site() {
    python3 -c "import os, site; os.makedirs(site.getusersitepackages(), exist_ok=True)"
}

# Read what the first cells will want, so that a snapshot taken from now on holds it in its page cache. Not imported
# into the kernels themselves: a user who installs another version must get that one.
warm_page_cache() {
    [ -z "$warm_imports" ] || python3 -c "import $warm_imports" || true
    node -e 0 || true
}

# Whoever looks for the server's process finds it as `jupyter server` and, by its configuration, as `jupyter-server`.
start_jupyter() {
    JUPYTER_PATH=$root/jupyter "$python" "$root/bin/jupyter" server \
        --config="$root/jupyter/jupyter-server.py" \
        --ServerApp.port="$jupyter_port" --ServerApp.port_retries=0 --log-level=WARN &
    jupyter=$!
}

start_server() {
    "$python" "$root/bin/uvicorn" main:app --host "$host" --port "$port" &
    server=$!
}

stop() {
    trap - TERM INT
    # In this order, so that the server can still ask for its kernels to be stopped.
    kill "$server" 2>/dev/null && wait "$server"
    kill "$jupyter" 2>/dev/null && wait "$jupyter"
    exit 0
}

# One at a time: the server ends kernels that are not its own. A second one waits until nothing of the first is left,
# since what it started has the descriptor too.
exec 9<"$home"
flock 9
trap stop TERM INT

make_user_site
start_jupyter
warm_page_cache
start_server
while true; do
    wait -n "$jupyter" "$server"
    if ! kill -0 "$jupyter" 2>/dev/null; then
        # Before the delay: it must not be healthy to whoever waits until all is back.
        kill -9 "$server" 2>/dev/null
        wait "$server" 2>/dev/null
        sleep "$restart_delay"
        start_jupyter
        start_server
    elif ! kill -0 "$server" 2>/dev/null; then
        sleep "$restart_delay"
        start_server
    fi
done
