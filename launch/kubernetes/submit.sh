#!/usr/bin/env bash
# Submits a run to Kubernetes: a manifest, a name for the run, and what goes to s2sjax.
#
#   bash launch/kubernetes/submit.sh mine.yaml m30k train --config=configs/multi30k/modern.py --workdir=/runs/m30k
#   bash launch/kubernetes/submit.sh --dry-run ...      prints the manifest instead
#
# mine.yaml is a copy of gpu.yaml or tpu.yaml with your image, nodes and volume. Config files are those in the image.
#   kubectl get jobset m30k          kubectl logs -f -l jobset.sigs.k8s.io/jobset-name=m30k --prefix
#   kubectl delete jobset m30k       saves and stops; submitted again, it goes on
set -euo pipefail

fail() {
  echo "submit.sh: $*" >&2
  exit 2
}

submit=(kubectl create -f -)
if [[ "${1:-}" == --dry-run ]]; then
  submit=(cat)
  shift
fi
(($# >= 3)) || fail "expected a manifest, a name and s2sjax's arguments; the first lines of ${BASH_SOURCE[0]} say how"
manifest="$1" name="$2"
shift 2
[[ -f "$manifest" ]] || fail "there is no manifest $manifest"
# Pods are called after it twice over, in a label of 63 letters at most.
[[ "$name" =~ ^[a-z][a-z0-9-]{0,23}[a-z0-9]$ ]] ||
  fail "the name '$name' has to be 2 to 25 small letters, digits and hyphens, and begin with a letter"

quote() { # as JSON, which is YAML; Kubernetes puts variables in place of $(NAME), and one dollar in place of two
  local LC_ALL=C text="$1" quoted="" character code # bytes
  while [[ -n "$text" ]]; do
    character="${text:0:1}" text="${text:1}"
    case "$character" in
      \" | \\) quoted+="\\$character" ;;
      $) quoted+="\$\$" ;;
      [[:cntrl:]])
        printf -v code '\\u%04x' "'$character"
        quoted+="$code"
        ;;
      *) quoted+="$character" ;;
    esac
  done
  quoted="${quoted//$'\xc2\x85'/\\u0085}" # line ends to YAML, as the next two, and a mark that it drops
  quoted="${quoted//$'\xe2\x80\xa8'/\\u2028}"
  quoted="${quoted//$'\xe2\x80\xa9'/\\u2029}"
  quoted="${quoted//$'\xef\xbb\xbf'/\\ufeff}"
  printf '"%s"' "$quoted"
}
arguments=""
for argument in "$@"; do arguments+="${arguments:+, }$(quote "$argument")"; done

names=0 places=0 text=""
while IFS= read -r line || [[ -n "$line" ]]; do
  if [[ "$line" =~ ^\ \ name:\ s2sjax($|\ ) ]]; then
    line="  name: $name"
    names=$((names + 1))
  elif [[ "$line" =~ ^(\ +args:)\ \[\] ]]; then
    line="${BASH_REMATCH[1]} [$arguments]"
    places=$((places + 1))
  fi
  text+="$line"$'\n'
done <"$manifest"
((names == 1 && places == 1)) || fail "$manifest has to have the lines '  name: s2sjax' and 'args: []' once each"

printf '%s' "$text" | "${submit[@]}"
