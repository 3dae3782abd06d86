#!/bin/sh
# Updates a microcontroller with two banks behind a gateway, in the protocol of docs/delegate.md. The folder $MCU stands
# for it here: a real one is reached by a serial line (mcumgr, stm32flash, ...) in the places where this one has files.
set -eu
verb=$1
slot=${2:-}

# Unplugged, or still booting: asked again later.
[ -d "$MCU" ] || exit 75
get() { cat "$MCU/$1" 2>/dev/null || echo "$2"; }
# All or nothing, whenever the power goes.
put() { echo "$2" > "$MCU/$1.new" && sync "$MCU/$1.new" && mv "$MCU/$1.new" "$MCU/$1" && sync "$MCU"; }

case $verb in
  inspect)
    printf '{ "running": "%s", "active": "%s" }\n' "$(get running a)" "$(get active a)" ;;
  prepare)
    rm -f "$MCU/bank-$slot" ;;
  install)
    file=$3
    bytes=$(stat -L -c %s "$file")
    [ "$bytes" -le 1048576 ] || { echo "the bank has 1 MiB, the image $bytes bytes" >&2; exit 73; }
    # From the beginning whenever it is asked: a bank that was half written is written again.
    : > "$MCU/bank-$slot"
    blocks=$(((bytes + 65535) / 65536))
    block=0
    while [ "$block" -lt "$blocks" ]; do
      dd if="$file" bs=65536 skip="$block" count=1 status=none >> "$MCU/bank-$slot"
      block=$((block + 1))
      echo "progress $((block * 100 / blocks))"
    done
    sync "$MCU/bank-$slot" ;;
  verify)
    echo "$3  $MCU/bank-$slot" | sha256sum --check --quiet ;;
  boot)
    [ -s "$MCU/bank-$slot" ] && ! grep -q 'does not start' "$MCU/bank-$slot" || exit 1
    put running "$slot" ;;
  commit)
    put active "$slot" ;;
  revert)
    ;; # The agent boots the active slot next.
  *)
    exit 64 ;; # "activate" is nothing that this one would have to be told.
esac
