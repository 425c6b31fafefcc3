#!/usr/bin/env bash
# Makes a virtual environment with a CUDA torch and slangrast in it, for `make cuda-check`. About 5 GB.
#
#   tools/set_up_cuda.sh FOLDER
#
# CUDA_TORCH is what pip is asked for; it must have been built for the major version of CUDA that nvcc has.
# PYTHON names the interpreter to use. The same folder again brings it up to date.
set -euo pipefail
cd "$(dirname "$0")/.."

environment=$1
torch=${CUDA_TORCH:-torch==2.11.0}
gigabytes_needed=8 # 5 stay, the rest is pip's while it unpacks

stop() {
    printf 'cuda-check: %s\n' "$@" >&2
    exit 1
}

command -v nvcc >/dev/null ||
    stop "nvcc is not on PATH. Install the CUDA toolkit (no GPU is needed), or add its bin folder to PATH."
free=$(df --output=avail -BG . | tail -n 1 | tr -dc 0-9)
((free >= gigabytes_needed)) ||
    stop "the environment needs $gigabytes_needed GB of disk, and $free are free at $PWD."

"${PYTHON:-python3}" -m venv "$environment"
pip=("$environment/bin/python" -m pip --disable-pip-version-check --quiet)

# Unquoted: CUDA_TORCH may hold options, such as --index-url. No cache: pip would keep two more gigabytes.
# shellcheck disable=SC2086
"${pip[@]}" install --no-cache-dir $torch
cuda=$("$environment/bin/python" -W ignore -c 'import torch; print(torch.version.cuda or "none")')
release=$(nvcc --version | sed -n 's/.*release \([0-9.]*\),.*/\1/p')
[[ ${cuda%%.*} == "${release%%.*}" ]] ||
    stop "$torch was built for CUDA $cuda, and nvcc is $release. Name one that fits, such as" \
        "make cuda-check CUDA_TORCH='torch==2.11.0 --index-url https://download.pytorch.org/whl/cu${release/./}'"

# constraints.txt pins the torch of the CPU environment, and a setuptools that an older torch refuses: without the pin of
# its own version here, pip would then replace the torch above by the newest.
constraints=$(mktemp)
trap 'rm -f "$constraints"' EXIT
grep -v -e '^torch==' -e '^setuptools==' constraints.txt >"$constraints"
"${pip[@]}" freeze | grep '^torch==' >>"$constraints"
"${pip[@]}" install --constraint "$constraints" --editable '.[cuda]'
