# Running commands in the tree $root. Whoever uses this is in mount and pid namespaces of its own (build.sh).

enter() {
    mount -t proc proc "$root/proc"
    mount --rbind /dev "$root/dev"
    cp /etc/resolv.conf "$root/etc/resolv.conf"
}

inside() { chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive "$@"; }

leave() {
    rm -f "$root/etc/resolv.conf"
    umount --recursive "$root/dev"
    umount "$root/proc"
}
