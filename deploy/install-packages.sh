#!/bin/sh
# Installs the packages named in the files given, where any is missing. Needs root and apt.
set -eu
wanted=$(sed -E 's/#.*//' "$@")
missing=""
for package in $wanted python3-venv; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing="$missing $package"
done
[ -z "$missing" ] && exit 0
export DEBIAN_FRONTEND=noninteractive
apt-get update --quiet=2
# Services of these packages are started by the tests that need them, never by the package.
printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d.swarmpy
chmod +x /usr/sbin/policy-rc.d.swarmpy
if [ ! -e /usr/sbin/policy-rc.d ]; then
    mv /usr/sbin/policy-rc.d.swarmpy /usr/sbin/policy-rc.d
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
else
    rm -f /usr/sbin/policy-rc.d.swarmpy
fi
# shellcheck disable=SC2086
apt-get install --quiet=2 --yes --no-install-recommends $missing
