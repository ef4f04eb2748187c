#!/usr/bin/env bash
# A local market for the lease tests: slots of twelve seconds, a provider that leases Filter, a buyer whose stream pays it, and the buyer's ticket port.
# Prints one JSON line when all is there; everything ends when standard input does.
. "$(dirname "$0")/../../../script/lib.sh"
SLOT_LENGTH=12 NOTICE=30 MARGIN=5
. "$ROOT/script/devnet.sh"
cd "$ROOT"

market() {
  start_chain "$BUILD/lease-test"

  home node --listen /ip4/127.0.0.1/tcp/0/ws
  start node as node node run
  local node provider tickets
  node=$(wait_line node '"role":"node"' 60)
  NODE_ADDRESS=$(printf '%s' "$node" | field 'addresses.find((address) => !address.includes("/ws"))')

  keystore relayer
  home relayer --bootstrap "$NODE_ADDRESS" --keystore "$KEYSTORE_relayer" --keystore-password-file "$NET/keys/password"
  start relayer as relayer relayer run
  home provider --bootstrap "$NODE_ADDRESS" --archive --listen /ip4/127.0.0.1/tcp/0/ws
  TRIBUTARY_PROVIDER__SERVICES='["store","filter"]' TRIBUTARY_PROVIDER__CLAIM_EVERY=0 start provider as provider provider run

  buyer_with buyer 25
  as buyer deposit 25
  as buyer insert
  wait_line relayer '"role":"relayer"' 60
  provider=$(wait_line provider '"role":"provider"' 60)
  as buyer discover --at-least 1 --seconds 60
  as buyer buy filter --duration 240

  TRIBUTARY_TICKETS__MAX_PER_LEASE=2 TRIBUTARY_TICKETS__MAX_TOTAL=10 TRIBUTARY_TICKETS__ORIGINS='["https://app.example"]' \
    start tickets as buyer tickets run
  tickets=$(wait_line tickets '"role":"tickets"' 60)
  printf '{"node":%s,"provider":%s,"tickets":%s,"tickets_pid":%s}\n' "$node" "$provider" "$tickets" "$PID_tickets" >&3
}

exec 3>&1 1>&2
market
exec 3>&-
read -r _ || true
