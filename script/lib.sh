# Shared by the scripts: where things are, and how steps report themselves. Sourced, not run.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
BUILD="$ROOT/build"
BIN="$ROOT/node_modules/.bin"
LOGS="$BUILD/logs"
# npm's wrappers of forge, cast and anvil end with 0 whatever their tool says, so the tools themselves come first.
case "$(uname -s)-$(uname -m)" in
  Linux-x86_64) FOUNDRY_PLATFORM=linux-amd64 ;;
  Linux-aarch64) FOUNDRY_PLATFORM=linux-arm64 ;;
  Darwin-x86_64) FOUNDRY_PLATFORM=darwin-amd64 ;;
  Darwin-arm64) FOUNDRY_PLATFORM=darwin-arm64 ;;
  *) FOUNDRY_PLATFORM=unsupported ;;
esac
export PATH="$BIN:$PATH"
for tool in forge cast anvil; do PATH="$ROOT/node_modules/@foundry-rs/$tool-$FOUNDRY_PLATFORM/bin:$PATH"; done
export CARGO_TERM_PROGRESS_WHEN=${CARGO_TERM_PROGRESS_WHEN:-auto}
mkdir -p "$BUILD" "$LOGS"

if [ -t 1 ]; then BOLD=$'\e[1m' DIM=$'\e[2m' RED=$'\e[31m' GREEN=$'\e[32m' PLAIN=$'\e[0m'; else BOLD='' DIM='' RED='' GREEN='' PLAIN=''; fi

STEP=0
STEPS=${STEPS:-0}

fail() {
  printf '%serror:%s %s\n' "$RED" "$PLAIN" "$1" >&2
  exit 1
}

bar() { # done total width
  local filled=$(($1 * $3 / ($2 > 0 ? $2 : 1))) i
  for ((i = 0; i < $3; i++)); do if ((i < filled)); then printf '#'; else printf '.'; fi; done
}

# step NAME COMMAND...: runs it with its output in a log; a running clock on a terminal, one line when it ends.
step() {
  local name=$1 log started pid status=0
  shift
  STEP=$((STEP + 1))
  log="$LOGS/$(printf '%02d' "$STEP")-${name// /-}.log"
  started=$SECONDS
  "$@" >"$log" 2>&1 &
  pid=$!
  if [ -t 1 ]; then
    while kill -0 "$pid" 2>/dev/null; do
      printf '\r%s[%s]%s %s %s%ss%s ' "$DIM" "$(bar "$STEP" "$STEPS" 16)" "$PLAIN" "$name" "$DIM" $((SECONDS - started)) "$PLAIN"
      read -rt 0.5 <> <(:) || true
    done
    printf '\r\e[K'
  fi
  wait "$pid" || status=$?
  if [ "$status" -ne 0 ]; then
    printf '%s[%s] %s: failed after %ss%s\n' "$RED" "$(bar "$STEP" "$STEPS" 16)" "$name" $((SECONDS - started)) "$PLAIN"
    tail -n 60 "$log" >&2
    fail "$name failed (exit $status); the whole log is ${log#"$ROOT"/}"
  fi
  printf '[%s] %s %s(%ss)%s\n' "$(bar "$STEP" "$STEPS" 16)" "$name" "$DIM" $((SECONDS - started)) "$PLAIN"
}

# needs COMMAND MIN WHAT: a tool that a fresh machine is expected to have.
needs() {
  command -v "$1" >/dev/null 2>&1 || fail "$1 is missing: $2"
}

# stamp NAME FILES...: true when FILES changed since the last `stamped NAME`.
changed() {
  local name=$1
  shift
  local now
  now=$(cat -- "$@" 2>/dev/null | sha256sum | cut -d' ' -f1)
  [ "$(cat "$BUILD/stamps/$name" 2>/dev/null || true)" != "$now" ]
}

stamped() {
  local name=$1
  shift
  mkdir -p "$BUILD/stamps"
  cat -- "$@" | sha256sum | cut -d' ' -f1 >"$BUILD/stamps/$name"
}
