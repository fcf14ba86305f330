#!/bin/bash
# Brings the example shop up, places an order and shows what runs where.
set -euo pipefail
source "$(dirname "$0")/lib.sh"

GATEWAY=http://${BULKHEAD_GATEWAY:-127.0.0.1:8080}
export BULKHEAD

"$REPOSITORY/scripts/setup.sh" build run kernel
say "Building Bulkhead"
(cd "$REPOSITORY" && cargo build --release --locked -p bulkhead-cli)
say "The guest kernel"
"$REPOSITORY/scripts/kernel.sh"
say "The base image"
as_root "$SHOP/base/bootstrap.sh" --import
say "Bringing the shop up"
cd "$SHOP"
as_root "$BULKHEAD" up -d --build --wait

say "Placing an order: two ropes"
order=$(curl --fail-with-body --silent --show-error --max-time 30 \
    --json '{"sku": "rope", "quantity": 2}' "$GATEWAY/api/orders")
printf '%s\n' "$order"
id=$(sed -E 's/.*"id": ?"([^"]+)".*/\1/' <<<"$order")
curl --fail-with-body --silent --show-error --max-time 30 --output /dev/null "$GATEWAY/api/orders/$id"

say "What runs where"
as_root "$BULKHEAD" status
say "The shop: $GATEWAY/    the order: $GATEWAY/order/$id"
printf 'Remove it all with: make demo-down\n' >&2
