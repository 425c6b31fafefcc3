#!/usr/bin/env bash
# All that only a GPU can tell, for whoever has one for a quarter of an hour: tests, the same inputs on both devices,
# reload times, benchmarks beside the peers that can be imported, compute-sanitizer.
#
#   tools/prove_on_gpu.sh FOLDER [STEP...]
#
# FOLDER gets one log, the benchmarks' JSON and tables, and summary.txt. STEPs are the names below; none means all.
# PYTHON names an interpreter that has a CUDA torch and what slangrast and its tests need; SECONDS_IN_ALL is shared by
# the steps (840). A step that fails or takes too long does not keep the next from being tried. Shaders are built by
# NVRTC, which takes a fraction of slangtorch's time; one step is for slangtorch.
set -uo pipefail
(($# > 0)) || { sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 2; }
mkdir -p "$1"
folder=$(realpath "$1")
shift
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
deadline=$((SECONDS + ${SECONDS_IN_ALL:-840}))
wanted=" ${*:-all} "
log=$folder/log.txt
summary=$folder/summary.txt
failed=0
export PYTHONUNBUFFERED=1 SLANGRAST_CUDA_ENGINE=nvrtc
printf '%-12s %6s %8s\n' step status seconds >"$summary"

# step NAME SECONDS COMMAND...: status 124 is that of a step that took longer.
step() {
    local name=$1 limit=$2 left=$((deadline - SECONDS)) started=$SECONDS status=skipped
    shift 2
    [[ $wanted == *" all "* || $wanted == *" $name "* ]] || return 0
    if ((left > 5)); then
        printf '\n==== %s: %s\n' "$name" "$*" | tee -a "$log"
        timeout --kill-after=5 "$((limit < left ? limit : left))" "$@" 2>&1 | tee -a "$log"
        status=${PIPESTATUS[0]}
    fi
    [[ $status == 0 ]] || failed=1
    printf '%-12s %6s %8d\n' "$name" "$status" "$((SECONDS - started))" >>"$summary"
}

tests=("$python" -m pytest -m cuda -q -p no:cacheprovider -W default -n "${JOBS:-$(nproc)}" --maxfail=60)

step machine 40 "$python" -m slangrast doctor
step tests 240 "${tests[@]}"
step slangtorch 150 env SLANGRAST_CUDA_ENGINE=cuda "${tests[@]}" \
    tests/test_cuda_arguments.py tests/test_launches.py tests/test_list_room.py tests/test_nvrtc_engine.py
step same 90 "$python" -m tests.cpu_against_cuda
step reload 90 "$python" -m benchmarks.reload --device cuda --repeats 3 --out "$folder"
step benchmarks 240 "$python" -m benchmarks --device cuda --cases S4-512 S3 S2 L1 S4-1024 --seconds 0.3 --out "$folder"
# Each tensor has memory of its own, or a step past its end would land in the next.
step sanitizer 120 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --error-exitcode 9 --tool memcheck \
    "$python" -m tests.cpu_against_cuda --sizes 37 --faces 40

printf '\n' | cat - "$summary" | tee -a "$log"
exit "$failed"
