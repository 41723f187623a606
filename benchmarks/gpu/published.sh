#!/usr/bin/env bash
# Trains the published CIFAR recipe at full width, without an energy and with MHE in half space, seed
# after seed for as long as given, and makes the table of what is complete.
#
#     benchmarks/gpu/published.sh DATASET HOURS [OUT [FLAG ...]]
#
# DATASET is what `benchmarks/train.py --dataset` takes: a folder or zip of train/<class>/... and
# test/<class>/... images, or a TensorFlow Datasets name. OUT is runs/published by default, and other
# flags go to `benchmarks/train.py`. The same command goes on where time ran out. SEEDS limits the
# number of seeds, PYTHON names the interpreter, and KERAS_BACKEND the backend.
set -euo pipefail

usage() {
    echo "published.sh: error: $1; usage: published.sh DATASET HOURS [OUT [FLAG ...]]" >&2
    exit 2
}

[ $# -ge 2 ] || usage "DATASET and HOURS are required"
dataset=$1 hours=$2 out=${3:-runs/published}
shift 2
[ $# -eq 0 ] || shift
[[ $hours =~ ^[0-9]+(\.[0-9]+)?$ ]] || usage "HOURS must be a number. Received: $hours"
[[ ${SEEDS:=1000} =~ ^[1-9][0-9]*$ ]] || usage "SEEDS must be a positive integer. Received: $SEEDS"

programs=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python}
export PYTHONPATH=$programs/..${PYTHONPATH:+:$PYTHONPATH}
end=$(awk -v hours="$hours" -v now="$(date +%s)" 'BEGIN { printf "%d", now + 3600 * hours }')

for ((seed = 0; seed < SEEDS; seed++)); do
    left=$((end - $(date +%s)))
    [ "$left" -gt 0 ] || break
    # Ctrl-C leaves a run that can be resumed; so does SIGKILL, should Ctrl-C not do.
    code=0
    timeout --foreground --signal=INT --kill-after=120 "$left" \
        "$python" "$programs/train.py" --dataset "$dataset" --recipe published \
        --model_name baseline half_mhe --seed "$seed" --out "$out" "$@" || code=$?
    case $code in
        0) ;;
        124 | 137)
            echo "Time ran out in seed $seed; the same command resumes it"
            break
            ;;
        *) exit "$code" ;;
    esac
done

complete=()
for result in "$out"/*-seed*/result.json; do
    [ ! -e "$result" ] || complete+=("$(dirname "$result")")
done
if [ ${#complete[@]} -eq 0 ]; then
    echo "No run in $out is complete yet"
    exit 0
fi
"$python" "$programs/table.py" "${complete[@]}" --out "$out/all"
