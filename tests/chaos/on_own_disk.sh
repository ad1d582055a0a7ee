#!/bin/sh
# on_own_disk.sh DAEMON … --data-root DIR …: the daemon, with a file system of its own on DIR that can be full.
# The disk is an image beside DIR; it is mounted in the host's mount namespace, so it goes when the host loses power.
set -e
for word; do
    [ "$before" = --data-root ] && root=$word
    before=$word
done
if ! mountpoint -q "$root"; then
    mkdir -p "$root"
    if [ ! -e "$root.img" ]; then
        truncate -s 192M "$root.new"
        mkfs.ext4 -q -m 0 "$root.new"
        mv "$root.new" "$root.img"
    fi
    mount -o loop "$root.img" "$root"
fi
exec "$@"
