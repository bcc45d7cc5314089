#!/bin/sh
# Turns an overlay into the root of a host; runs as the first process of its namespaces. Without ADDRESS it is online.
#   init.sh MERGED NAME ADDRESS INSTANCE BINFMT
# Standard input is a pipe that the owner of the host holds open: when it closes, for whatever reason, the host ends.
set -eu
root=$1 name=$2 address=$3 instance=$4 binfmt=$5

mount --make-rprivate /
mount -t overlay "$name" -o "lowerdir=$instance/lower,upperdir=$instance/upper,workdir=$instance/work" "$root"
mount --bind "$instance/docker" "$root/var/lib/docker"
mount --bind "$instance/containerd" "$root/var/lib/containerd"

mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount --rbind /sys/fs/cgroup "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mkdir "$root/run/lock"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0 kmsg:1:11 fuse:10:229; do
    rest=${device#*:}
    mknod -m 666 "$root/dev/${device%%:*}" c "${rest%:*}" "${rest#*:}"
done
mkdir -p "$root/dev/pts" "$root/dev/shm" "$root/dev/mqueue"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount -t mqueue mqueue "$root/dev/mqueue"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
ln -s fd/0 "$root/dev/stdin"
ln -s fd/1 "$root/dev/stdout"
ln -s fd/2 "$root/dev/stderr"
if [ "$binfmt" = yes ]; then
    mount -t binfmt_misc binfmt_misc "$root/proc/sys/fs/binfmt_misc"
fi

hostname "$name"
if [ -n "$address" ]; then
    ip link set lo up
    # Both ends of the cable are in here, so that nothing of this host shows on the machine.
    ip link add eth0 type veth peer name cable
    ip link set cable up
    ip link set eth0 up
    ip address add "$address/24" dev eth0
else
    # The machine's network is this host's, and so is the way to find names in it.
    cat /etc/resolv.conf >"$root/etc/resolv.conf"
fi

cd "$root"
mkdir -p .old
pivot_root . .old
umount -l /.old
rmdir /.old
cd /
: >/run/host-is-up
exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin tini -s -- cat
