#!/bin/sh
# Makes the machine of tests/vm: a Debian with systemd, pure cgroup v2, and swarmpyd put on it by deploy/install.sh.
#
#   deploy/vm/build.sh CACHE
#
# Prints a directory below CACHE with `vmlinuz`, `initrd` and `root.img` (raw ext4); what was made of the same sources before is
# taken as it is. Two steps, each kept under the hash of what went into it:
#
#   base-…   Debian's packages alone (base.sh)
#   image-…  the base, this checkout by install.sh from a wheelhouse, and the runtime's tests
#
# All mounts and processes are in namespaces of the script's own: whatever ends it, none of them is left.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
project=$(cd "$here/../.." && pwd)
mkdir -p "$1" && cache=$(cd "$1" && pwd)
python=3.11                         # of the base

if [ -z "${IN_OWN_NAMESPACES:-}" ]; then
    IN_OWN_NAMESPACES=yes exec unshare --mount --propagation private --pid --fork --kill-child --mount-proc \
        flock "$cache/lock" sh "$0" "$cache"
fi
exec 3>&1 1>&2                      # what is printed below is for the reader; the answer goes to 3

cd "$project"
hash_of() {     # of names and contents, not of where they lie
    (find "$@" -type f ! -name '*.pyc' | LC_ALL=C sort | xargs sha256sum | sha256sum | cut -c1-16)
}
base=$cache/base-$(hash_of deploy/vm/base.sh deploy/vm/inside.sh deploy/packages.txt deploy/install-packages.sh)
image=$cache/image-$(hash_of deploy/*.sh deploy/*.service deploy/*.default deploy/packages.txt deploy/vm swarmpy pyproject.toml \
    tests/__init__.py tests/runtime)

if [ -d "$image" ]; then
    touch "$image"
    echo "$image" >&3
    exit
fi

if [ ! -d "$base" ]; then
    rm -rf "$cache"/base-*.part
    sh "$here/base.sh" "$base.part"
    mv "$base.part" "$base"
fi

rm -rf "$cache"/image-*.part
work=$image.part
root=$work/root
wheels=$work/wheels
mkdir -p "$work/upper" "$work/workdir" "$root" "$wheels" "$work/sources"
mount -t overlay -o "lowerdir=$base/root,upperdir=$work/upper,workdir=$work/workdir" overlay "$root"
. "$here/inside.sh"

# The machines have no network to the outside: a wheel of this checkout, made from a copy, and all that it and its tests need.
cp -r "$project/swarmpy" "$project/pyproject.toml" "$project/README.md" "$work/sources/"
sed -nE 's/^ *"(pytest[^"]*)".*/\1/p' "$project/pyproject.toml" > "$work/tools"
pip="$project/.venv/bin/python -m pip --disable-pip-version-check --quiet"
$pip wheel --no-deps --wheel-dir "$wheels" "$work/sources"
$pip download --dest "$wheels" --only-binary :all: --python-version "$python" --platform manylinux2014_x86_64 \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_34_x86_64 --requirement "$work/tools" "$wheels"/swarmpy-*.whl

enter
mkdir "$root/tmp/deploy" "$root/tmp/wheels"
cp "$project"/deploy/*.* "$root/tmp/deploy/"
cp "$wheels"/*.whl "$root/tmp/wheels/"
inside sh /tmp/deploy/install.sh --wheelhouse /tmp/wheels
# The tests of the runtime, with what they need beside it, and the installer for another release.
cp "$work/tools" "$root/tmp/tools"
inside /opt/swarmpy/current/bin/python -m pip install --quiet --disable-pip-version-check --no-index \
    --find-links /tmp/wheels --no-cache-dir --root-user-action=ignore --target /opt/tests --requirement /tmp/tools
mkdir "$root/opt/tests/tests"
cp -r "$project/tests/__init__.py" "$project/tests/runtime" "$root/opt/tests/tests/"
cp "$project/pyproject.toml" "$root/opt/tests/"
cp -r "$root/tmp/deploy" "$root/opt/tests/"

# What a test needs of a machine that lives for minutes: its address from outside, no consoles, no upkeep.
cp -r "$here/files/." "$root/"
inside systemctl enable --quiet vm-seed.service
inside systemctl mask --quiet getty.target getty-static.service e2scrub_reap.service apt-daily.timer \
    apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer systemd-pstore.service
: > "$root/etc/machine-id"
leave
rm -rf "$root"/tmp/*
cp "$base/vmlinuz" "$base/initrd" "$work/"
mke2fs -q -t ext4 -d "$root" "$work/root.img" 4G
umount "$root"
rm -rf "$root" "$wheels" "$work/upper" "$work/workdir" "$work/sources" "$work/tools"
mv "$work" "$image"

# Two more are kept: another checkout of this machine may be using them.
for kind in base image; do
    ls -dt "$cache/$kind"-* | tail -n +4 | xargs --no-run-if-empty rm -rf
done
echo "$image" >&3
