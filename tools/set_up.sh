#!/usr/bin/env bash
# Makes a virtual environment with slangrast in it.
#
#   tools/set_up.sh FOLDER WHAT [EXTRA_PIP_ARGUMENT...]
#
# WHAT is what pip installs: a wheel, or `--editable=.[test]`. The same folder again brings it up to date.
# PYTHON names the interpreter to use; TORCH_INDEX a package index that has torch's CPU build.
set -euo pipefail
cd "$(dirname "$0")/.."

environment=$1
shift
torch_index=${TORCH_INDEX:-}

stop() {
    printf 'slangrast: %s\n' "$@" >&2
    exit 1
}

supported() {
    "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10}; do
        if supported "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    stop "Python 3.10 to 3.13 is needed, and none of these is one: ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10}." \
        "Install one (Debian, Ubuntu: apt install python3 python3-venv), or name yours: make PYTHON=/path/to/python3 ..."
}

find_host_compiler() {
    local candidate named=${SLANGRAST_CXX:-}
    for candidate in ${named:+"${named%% *}"} $([[ $named ]] || echo clang++ g++ c++); do
        command -v "$candidate" >/dev/null 2>&1 && return
    done
    stop "no C++ compiler found (looked for ${named:-clang++, g++ and c++})." \
        "Shaders run on the CPU by being compiled with one. Install it (Debian, Ubuntu: apt install g++;" \
        "Fedora: dnf install gcc-c++), or name yours: make SLANGRAST_CXX=/path/to/compiler ..."
}

python=$(find_python)
find_host_compiler
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
    stop "$("$python" --version) at $(command -v "$python") has no venv module (Debian, Ubuntu: apt install python3-venv)."

"$python" -m venv "$environment"
pip=("$environment/bin/python" -m pip --disable-pip-version-check)

# On Linux the default index has the CUDA build of torch, ten times the download. TORCH_INDEX adds an index that has
# the CPU build, which counts as the newer of the two, so that pip prefers it.
"${pip[@]}" install --quiet --no-deps --retries 1 ${torch_index:+--extra-index-url "$torch_index"} \
    --constraint constraints.txt torch
"${pip[@]}" install --quiet --constraint constraints.txt "$@"
