#!/usr/bin/env bash
# A local market for the TURN test: slots of twelve seconds, a provider that sells TURN on loopback, a buyer with money in the pool, and `turn` at work.
# Prints one JSON line when all is there; everything ends when standard input does.
. "$(dirname "$0")/../../../script/lib.sh"
SLOT_LENGTH=12 NOTICE=30 MARGIN=5
. "$ROOT/script/devnet.sh"
cd "$ROOT"

market() {
  start_chain "$BUILD/turn-test"

  home node
  start node as node node run
  NODE_ADDRESS=$(wait_line node '"role":"node"' 60 | field 'addresses[0]')

  keystore relayer
  home relayer --bootstrap "$NODE_ADDRESS" --keystore "$KEYSTORE_relayer" --keystore-password-file "$NET/keys/password"
  start relayer as relayer relayer run
  home provider --bootstrap "$NODE_ADDRESS"
  local provider turn
  # Both ends of the test's calls are on loopback, where relays reach nobody by default.
  TRIBUTARY_PROVIDER__SERVICES='["turn"]' TRIBUTARY_PROVIDER__CLAIM_EVERY=0 TRIBUTARY_PROVIDER__TURN__UDP='["127.0.0.1:0"]' \
    TRIBUTARY_PROVIDER__TURN__TCP='["127.0.0.1:0"]' TRIBUTARY_PROVIDER__TURN__ALLOWED_PEERS='["127.0.0.0/8"]' \
    TRIBUTARY_PROVIDER__TURN__GRACE=4 TRIBUTARY_PROVIDER__TURN__BYTES_PER_SECOND=12500000 \
    start provider as provider provider run

  buyer_with buyer 25
  as buyer deposit 25
  as buyer insert
  wait_line relayer '"role":"relayer"' 60
  provider=$(wait_line provider '"role":"provider"' 60)
  as buyer discover --at-least 1 --seconds 60
  start turn as buyer --json turn --buy --until --duration 240
  turn=$(wait_line turn '"role":"turn"' 120)
  printf '{"provider":%s,"provider_pid":%s,"turn":%s,"turn_pid":%s,"turn_log":"%s"}\n' "$provider" "$PID_provider" "$turn" "$PID_turn" "$NET/logs/turn.log" >&3
}

exec 3>&1 1>&2
market
exec 3>&-
read -r _ || true
