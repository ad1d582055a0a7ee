#!/bin/sh
# The Debian that a machine for tests/vm begins with, as a cloud provider's image would be; called by build.sh.
#
#   base.sh DIRECTORY
#
# makes DIRECTORY/root, a tree with systemd, Python and a kernel's modules, and the kernel and an initrd for it. mmdebstrap is
# taken, which does what debootstrap does in less than half of its processor time.
set -eu
project=$(cd "$(dirname "$0")/../.." && pwd)
here=$(dirname "$0")
base=$1
root=$base/root
suite=bookworm mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
packages=systemd,systemd-sysv,udev,dbus,kmod,procps,python3,python3-venv,qemu-guest-agent
kernel_package=linux-image-cloud-amd64
. "$here/inside.sh"

mkdir -p "$base"
mmdebstrap --quiet --mode=root --variant=minbase --include="$packages" --skip=cleanup/apt/lists \
    --aptopt='APT::Install-Recommends "false"' "$suite" "$root" "$mirror"
enter
cp "$project/deploy/packages.txt" "$project/deploy/install-packages.sh" "$root/tmp/"
inside sh /tmp/install-packages.sh /tmp/packages.txt

# The kernel is unpacked, not installed: nothing of it is configured, here or on the machine that builds.
kernel=$(inside apt-cache depends "$kernel_package" | awk '/Depends: linux-image-[0-9]/ {print $2; exit}')
inside sh -c "cd /tmp && apt-get download --quiet=2 $kernel && dpkg-deb --extract $kernel*.deb /tmp/kernel"
cp "$root"/tmp/kernel/boot/vmlinuz-* "$base/vmlinuz"
cp -a "$root/tmp/kernel/lib/modules" "$root/usr/lib/"
version=$(ls "$root/usr/lib/modules")
inside depmod "$version"

# The initrd loads what the disk of the root file system needs, and goes there.
tree=$base/initrd.tree
mkdir -p "$tree/dev" "$tree/root" "$tree/lib"
cp "$root/bin/busybox" "$tree/busybox"
inside modprobe --set-version "$version" --show-depends --all virtio_pci virtio_blk |
    awk '$1 == "insmod" && !seen[$2]++ {print $2}' > "$base/modules"
{
    printf '#!/busybox sh\n/busybox mount -t devtmpfs dev /dev\n'
    while read -r module; do
        cp "$root$module" "$tree/lib/"
        echo "/busybox insmod /lib/$(basename "$module")"
    done < "$base/modules"
    printf 'until /busybox [ -b /dev/vda ]; do /busybox sleep 0.1; done\n'     # the kernel probes on its own time
    printf '/busybox mount -t ext4 /dev/vda /root\n/busybox umount /dev\nexec /busybox switch_root /root /sbin/init\n'
} > "$tree/init"
chmod +x "$tree/init"
(cd "$tree" && find . | ./busybox cpio -o -H newc 2>/dev/null) | gzip -1 > "$base/initrd"
rm -r "$tree" "$base/modules"

leave
rm -rf "$root"/tmp/* "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin "$root"/var/cache/apt/archives/*.deb \
    "$root"/usr/share/doc "$root"/usr/share/man "$root"/usr/share/locale
