# A local chain with a deployed pool, and daemons on it. Sourced by demo and bench after lib.sh; everything is stopped at exit.

PIDS=()
stop_all() {
  local pid
  for pid in "${PIDS[@]:-}"; do [ -n "$pid" ] && kill "$pid" 2>/dev/null || true; done
  for pid in "${PIDS[@]:-}"; do [ -n "$pid" ] && wait "$pid" 2>/dev/null || true; done
}
trap stop_all EXIT

TRIBUTARY=${DEMO_BINARY:-"$ROOT/target/debug/tributary"}

# start NAME COMMAND...: in the background, output in $NET/logs/NAME.log
start() {
  local name=$1
  shift
  # There before anybody waits for a line of it.
  : >"$NET/logs/$name.log"
  # The process itself and no shell around it, so that a signal reaches it.
  if [ "$1" = as ]; then
    (EXEC=exec && "$@") >"$NET/logs/$name.log" 2>&1 &
  else
    "$@" >"$NET/logs/$name.log" 2>&1 &
  fi
  PIDS+=($!)
  eval "PID_$name=$!"
}

# wait_line NAME PATTERN SECONDS: the first matching line of a daemon's log; fails when it ends first or takes too long.
wait_line() {
  local line
  line=$(eval "timeout $3 tail -n +1 --pid=\$PID_$1 -f '$NET/logs/$1.log'" 2>/dev/null | grep -m1 -E "$2") || true
  [ -n "$line" ] || {
    tail -n 20 "$NET/logs/$1.log" >&2
    fail "$1 did not get ready"
  }
  printf '%s' "$line"
}

# field EXPRESSION: from the JSON on standard input, e.g. field addresses[0]; fails where there is none
field() { node -e 'let s="";process.stdin.on("data",d=>s+=d).on("end",()=>{if(!s.trim())process.exit(1);const p=process.argv[1],v=eval("JSON.parse(s)"+(p.startsWith("[")?"":".")+p);console.log(typeof v==="object"?JSON.stringify(v):v)})' "$1"; }

free_port() { node -e 'const s=require("net").createServer().listen(0,"127.0.0.1",()=>{console.log(s.address().port);s.close()})'; }

# keystore NAME: a fresh account, its keystore in $NET/keys, 10 ether on it; prints nothing. ADDRESS_NAME is set.
keystore() {
  local json
  mkdir -p "$NET/keys"
  printf 'local chain only' >"$NET/keys/password"
  json=$(cast wallet new "$NET/keys" "$1" --unsafe-password 'local chain only' --json)
  eval "ADDRESS_$1=$(printf '%s' "$json" | field '[0].address')"
  eval "KEYSTORE_$1='$NET/keys/$1'"
  eval "cast rpc --rpc-url '$RPC' anvil_setBalance \$ADDRESS_$1 0x8ac7230489e80000" >/dev/null
}

# home NAME OPTIONS...: a home folder with wallet and configuration
home() {
  local name=$1
  shift
  printf 'demo password of %s' "$name" >"$NET/$name.password"
  chmod 600 "$NET/$name.password"
  "$TRIBUTARY" --home "$NET/$name" --password-file "$NET/$name.password" --json init --rpc "$RPC" \
    --manifest "$NET/deployment.json" --artifacts "$BUILD/circuits" --listen /ip4/127.0.0.1/tcp/0 \
    --phrase-file "$NET/$name.phrase" "$@" >/dev/null
}

# as NAME ARGUMENTS...: tributary in somebody's home
as() {
  local name=$1
  shift
  ${EXEC:-} "$TRIBUTARY" --home "$NET/$name" --password-file "$NET/$name.password" "$@"
}

# start_chain DIRECTORY: chain with blocks of one second, pool deployed; SLOT_LENGTH, NOTICE and MARGIN (seconds) may be set before
start_chain() {
  NET=$1
  rm -rf "$NET"
  mkdir -p "$NET/logs"
  PORT=$(free_port)
  RPC="http://127.0.0.1:$PORT"
  start chain anvil --port "$PORT" --block-time 1 --chain-id 31337
  wait_line chain 'Listening on' 30 >/dev/null
  "$ROOT/script/deploy" --rpc-url "$RPC" --manifest "$NET/deployment.json" --notice "${NOTICE:-150}" --slot-length "${SLOT_LENGTH:-60}" --margin "${MARGIN:-15}" --burn-bps 100 >"$NET/logs/deploy.log" 2>&1 ||
    { tail -n 30 "$NET/logs/deploy.log" >&2; fail "the pool could not be deployed"; }
  node "$ROOT/contracts/verify-deployment.mjs" --rpc-url "$RPC" --manifest "$NET/deployment.json" >"$NET/logs/verify.log" 2>&1 ||
    { tail -n 5 "$NET/logs/verify.log" >&2; fail "the code on chain is not the code built here"; }
  POOL=$(field pool <"$NET/deployment.json")
  TOKEN=$(field token.address <"$NET/deployment.json")
}

# start_network: a plain node, a relayer, a provider that sells Waku Store
start_network() {
  home node --archive
  start node as node node run
  NODE_ADDRESS=$(wait_line node '"role":"node"' 30 | field 'addresses[0]')

  keystore relayer
  home relayer --bootstrap "$NODE_ADDRESS" --keystore "$KEYSTORE_relayer" --keystore-password-file "$NET/keys/password"
  start relayer as relayer relayer run
  wait_line relayer '"role":"relayer"' 60 >/dev/null

  home provider --bootstrap "$NODE_ADDRESS" --archive
  start provider as provider provider run
  PROVIDER=$(wait_line provider '"role":"provider"' 60 | field peer_id)
}

# buyer_with NAME TOKENS: a wallet with that much in the pool, in the tree
buyer_with() {
  keystore "$1"
  home "$1" --bootstrap "$NODE_ADDRESS" --keystore "$(eval "echo \$KEYSTORE_$1")" --keystore-password-file "$NET/keys/password"
  cast send --rpc-url "$RPC" --unlocked --from 0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266 "$TOKEN" 'mint(address,uint256)' "$(eval "echo \$ADDRESS_$1")" "$2000000" >/dev/null
}
