#!/usr/bin/env bash
# From nothing to a trained translator: installs, trains on embedded phrases (English into seven languages; nothing to
# download), evaluates on held-out ones, and translates a few. Four minutes on two cores once it is installed.
#
#   bash launch/quickstart.sh                                  run it again: it goes on from what is there
#   bash launch/quickstart.sh --config.train.steps=4000        arguments go to s2sjax train
#   S2SJAX_QUICKSTART=short bash launch/quickstart.sh          a minute, to see that everything works; learns little
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash launch/setup.sh

case "${S2SJAX_QUICKSTART:-full}" in
  full)
    workdir=runs/quickstart
    settings=()
    ;;
  short)
    workdir=runs/quickstart-short
    settings=(--config.train.steps=60)
    ;;
  *)
    echo "quickstart: S2SJAX_QUICKSTART is '$S2SJAX_QUICKSTART'; it has to be full or short" >&2
    exit 2
    ;;
esac

headline() { printf '\n== %s\n' "$*"; }

headline "Training in $workdir"
.venv/bin/s2sjax train --config=configs/quickstart.py --workdir="$workdir" ${settings[@]+"${settings[@]}"} "$@"

headline "Evaluating on held-out phrases"
.venv/bin/s2sjax evaluate --workdir="$workdir" --split=test

headline "Translating a few of them"
held_out() { # the "source" or "target" of the first held-out phrase of each language
  .venv/bin/python -c '
import sys
from s2sjax.data.phrases import TAGS, phrases
rows = phrases("test")
for tag in TAGS:
    print(next(row[sys.argv[1]] for row in rows if row["source"].startswith(tag)))
' "$1"
}
sources="$(held_out source)"
references="$(held_out target)"
translations="$(.venv/bin/s2sjax decode --workdir="$workdir" --input=- --output=- <<<"$sources")"
while IFS=$'\t' read -r source translation reference; do
  if [[ "$translation" == "$reference" ]]; then
    printf '%s\n    -> %s\n' "$source" "$translation"
  else
    printf '%s\n    -> %s   (should be: %s)\n' "$source" "$translation" "$reference"
  fi
done < <(paste <(printf '%s\n' "$sources") <(printf '%s\n' "$translations") <(printf '%s\n' "$references"))

headline "Plots"
find "$workdir" -name '*.png' | sort

headline "What next"
cat <<EOF
Translate something of your own (the tag says into which language: de, ru, el, hi, ja, ko, ar):
  echo "<2ja> Friday, June 7, 2030" | .venv/bin/s2sjax decode --workdir=$workdir --input=- --output=-
Train on real sentences, Multi30k English to German (README.md says how to get it and what to expect):
  .venv/bin/s2sjax train --config=configs/multi30k/transformer_tiny.py --workdir=runs/m30k --config.data.dir=DIRECTORY
EOF
