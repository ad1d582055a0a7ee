#!/bin/sh
# Takes swarmpy off this machine.
#
#   deploy/uninstall.sh [--purge] [--force]
#
# --force  containers that still run are ended; without it they are a reason to refuse
# --purge  images, containers, volumes and the node's place in a swarm go too; without it a later install finds them again
#
# A node of a swarm should leave first: swarmpy swarm leave.
set -eu
purge=no force=no
fail() { echo "uninstall.sh: $*" >&2; exit 1; }
while [ $# -gt 0 ]; do
    case $1 in
        --purge) purge=yes ;;
        --force) force=yes ;;
        -h|--help) sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) fail "$1: no such option; see --help" ;;
    esac
    shift
done
[ "$(id -u)" = 0 ] || fail "must be run as root"

running=$(ls -d /run/swarmpy/runtime/containers/*/shim.sock 2>/dev/null | wc -l)
if [ "$running" -gt 0 ] && [ "$force" = no ]; then
    fail "$running containers still run; stop them first, or give --force"
fi

services="swarmpyd.service swarmpy-containers.service"
# shellcheck disable=SC2086
systemctl disable --quiet --now $services || true
if [ -x /opt/swarmpy/current/bin/python ]; then
    # What containers used of the network stays in the kernel when a daemon ends; nobody comes back for it now.
    /opt/swarmpy/current/bin/python -I -m swarmpy.network.removal ||
        echo "uninstall.sh: links and rules of containers could not be removed; the next boot is without them" >&2
fi
rm -f /etc/systemd/system/swarmpyd.service /etc/systemd/system/swarmpy-containers.service
systemctl daemon-reload || true
for command in swarmpy swarmpyd; do
    case $(readlink "/usr/local/bin/$command" || true) in /opt/swarmpy/*) rm -f "/usr/local/bin/$command" ;; esac
done
rm -rf /opt/swarmpy /run/swarmpy
if [ "$purge" = yes ]; then rm -rf /var/lib/swarmpy /etc/default/swarmpyd; fi
echo "swarmpy is off this machine$([ "$purge" = yes ] || echo '; images, containers and volumes are still in /var/lib/swarmpy')"
