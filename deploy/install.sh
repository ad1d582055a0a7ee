#!/bin/sh
# Installs swarmpyd on this machine, or brings it up to date; containers that run go on.
#
#   deploy/install.sh [SOURCE] [--wheelhouse DIR] [--docker-socket] [--no-start]
#
# SOURCE           a wheel of swarmpy, or a checkout (default: the one this script lies in)
# --wheelhouse DIR nothing is fetched: SOURCE (default: the newest swarmpy in DIR) and all it needs come from DIR,
#                  which `make wheelhouse` fills
# --docker-socket  the API is served on /run/docker.sock too, where programs made for Docker look for it
# --no-start       enable the service, but leave starting it to the next boot
#
# A fresh Debian or Ubuntu machine, root, Python 3.11 or newer (another one than python3: PYTHON=python3.12).
# Each release is an environment of its own under /opt/swarmpy/releases; `current` leads to the one in use. A release that
# does not start is taken back.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
prefix=/opt/swarmpy
python=${PYTHON:-python3}
source="" wheelhouse="" docker_socket=no start=yes

fail() { echo "install.sh: $*" >&2; exit 1; }

while [ $# -gt 0 ]; do
    case $1 in
        --wheelhouse) [ $# -ge 2 ] || fail "--wheelhouse needs a directory"; wheelhouse=$2; shift ;;
        --docker-socket) docker_socket=yes ;;
        --no-start) start=no ;;
        -h|--help) sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit 0 ;;
        -*) fail "$1: no such option; see --help" ;;
        *) [ -z "$source" ] || fail "$1: one source is enough, and that was $source"; source=$1 ;;
    esac
    shift
done

# ---------------------------------------------------------------------------------------------------------- checks

[ "$(id -u)" = 0 ] || fail "must be run as root"
command -v systemctl >/dev/null || fail "this machine has no systemd, which runs swarmpyd"
[ -z "$wheelhouse" ] || [ -d "$wheelhouse" ] || fail "--wheelhouse $wheelhouse: is not a directory"
if [ -z "$source" ]; then
    if [ -n "$wheelhouse" ]; then source=swarmpy
    elif [ -f "$here/../pyproject.toml" ]; then source=$(cd "$here/.." && pwd)
    else fail "give a wheel of swarmpy or a checkout"; fi
elif [ ! -e "$source" ]; then
    fail "$source: there is no such wheel or checkout"
fi
if [ "$docker_socket" = yes ] && systemctl is-enabled --quiet docker.socket docker.service 2>/dev/null; then
    fail "--docker-socket: docker itself serves /run/docker.sock here; first: systemctl disable --now docker.socket docker.service"
fi

sh "$here/install-packages.sh" "$here/packages.txt"
command -v "$python" >/dev/null || fail "there is no $python; apt-get install python3, or name another with PYTHON=…"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$python is $("$python" -V), and 3.11 or newer is needed; install one and name it with PYTHON=…"

# --------------------------------------------------------------------------------------------------------- release

mkdir -p "$prefix/releases"
release=$(mktemp -d "$prefix/releases/$(date -u +%Y%m%dT%H%M%SZ).XXXX")
chmod 0755 "$release"
trap 'rm -rf "$release"' EXIT
"$python" -m venv "$release"
if [ -n "$wheelhouse" ]; then set -- --no-index --find-links "$wheelhouse"; else set --; fi
"$release/bin/python" -m pip install --quiet --disable-pip-version-check --no-cache-dir --root-user-action=ignore \
    "$@" "$source"
mkdir -p "$release/share/swarmpy"
cp "$here/swarmpyd.service" "$here/swarmpy-containers.service" "$here/uninstall.sh" "$release/share/swarmpy/"
trap - EXIT

before=$(readlink "$prefix/current" || true)
use() {  # $1 becomes the release in use, in one step
    ln -sfn "$1" "$prefix/current.new"
    mv -T "$prefix/current.new" "$prefix/current"
    install -m 0644 -t /etc/systemd/system "$1/share/swarmpy/swarmpyd.service" "$1/share/swarmpy/swarmpy-containers.service"
}
use "$release"
for command in swarmpy swarmpyd; do ln -sfn "$prefix/current/bin/$command" "/usr/local/bin/$command"; done

# --------------------------------------------------------------------------------------------------------- service

[ -e /etc/default/swarmpyd ] || install -m 0644 "$here/swarmpyd.default" /etc/default/swarmpyd
if [ "$docker_socket" = yes ] && ! grep -q 'unix:///run/docker.sock' /etc/default/swarmpyd; then
    sed -i 's|^SWARMPYD_OPTIONS="|&-H unix:///run/swarmpy.sock -H unix:///run/docker.sock |' /etc/default/swarmpyd
    grep -q 'unix:///run/docker.sock' /etc/default/swarmpyd ||
        fail "--docker-socket: /etc/default/swarmpyd was written by hand; add -H unix:///run/docker.sock to its options"
fi
systemctl enable --quiet swarmpyd.service swarmpy-containers.service
if [ "$start" = yes ] && [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    if ! systemctl restart swarmpyd.service; then
        journalctl --unit swarmpyd.service --lines 20 --no-pager >&2 || true
        [ -n "$before" ] || fail "swarmpyd does not start"
        use "$before"
        systemctl daemon-reload
        systemctl reset-failed swarmpyd.service || true     # the starts that failed do not count against it
        systemctl restart swarmpyd.service || true
        rm -rf "$release"
        fail "the new release does not start; the one before it is in use again"
    fi
fi

# Shims of running containers go on in the release that started them; it stays until the last has ended.
for old in "$prefix"/releases/*; do
    [ "$old" = "$release" ] || [ "$old" = "$before" ] ||
        grep -qsF "$old/" /proc/[0-9]*/cmdline || rm -rf "$old"
done
echo "swarmpy $("$prefix/current/bin/swarmpyd" --version | cut -d' ' -f2) is in $prefix/current"
