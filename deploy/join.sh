#!/bin/sh
# A machine of deploy/Vagrantfile takes its place in the swarm: join.sh ROLE ADDRESS ADDRESS-OF-THE-FIRST-MANAGER
set -eu
role=$1 address=$2 first=$3
tokens=/vagrant-swarm
case $(swarmpy info --format '{{.Swarm.LocalNodeState}}') in active) exit 0 ;; esac
if [ "$address" = "$first" ]; then
    swarmpy swarm init --advertise-addr "$address"
    for kind in manager worker; do swarmpy swarm join-token --quiet "$kind" > "$tokens/$kind"; done
else
    swarmpy swarm join --advertise-addr "$address" --token "$(cat "$tokens/$role")" "$first:2377"
fi
