#!/bin/busybox sh
# Init of the test bed's machine. Its root becomes one of the host's files, which are
# served read-only; whatever is written stays in memory.
export PATH=/bin
/bin/busybox mkdir -p /proc /sys /host /new /upper
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
while read -r module; do
    insmod "/modules/$module" || echo "cannot load $module"
done </modules/order

mount -t virtiofs host /host || echo "cannot mount the host's files"
mount -t tmpfs -o mode=755 upper /upper
mount -t tmpfs -o mode=755 root /new

# Puts what was packed, and memory to write to, over a folder of the host's.
layer() { # name of the share's entry, path
    mkdir -p "/new$2" "/packed$2" "/upper/files$2" "/upper/work$2"
    mount -t overlay overlay "/new$2" \
        -o "lowerdir=/packed$2:/host/$1,upperdir=/upper/files$2,workdir=/upper/work$2"
}

for entry in /host/root/*; do
    name=${entry##*/}
    case $name in dev | proc | run | sys | tmp) continue ;; esac
    if [ -L "$entry" ]; then
        cp -a "$entry" "/new/$name"
    elif [ -d "$entry" ]; then
        layer "root/$name" "/$name"
    fi
done
for folder in run tmp; do
    mkdir "/new/$folder"
    mount -t tmpfs "$folder" "/new/$folder"
done
# Folders that are not where the loop above would have found them: below /tmp, say, or
# on a file system of their own.
while read -r name path; do
    [ -e "/new$path/." ] || layer "$name" "$path"
done </shares

for folder in dev proc sys; do
    mkdir "/new/$folder"
    mount --move "/$folder" "/new/$folder"
done
cd /new || exit
mkdir dev/pts dev/shm
mount -t devpts -o ptmxmode=666 devpts dev/pts
mount -t tmpfs shm dev/shm
ln -s /proc/self/fd dev/fd
ln -s fd/1 dev/stdout
ln -s fd/2 dev/stderr
mount -t cgroup2 cgroup2 sys/fs/cgroup
ip link set lo up
ip link set eth0 up
ip address add 10.0.2.15/24 dev eth0
ip route add default via 10.0.2.2

for port in sys/class/virtio-ports/*; do
    name=$(cat "$port/name" 2>dev/null)
    case $name in
    out) out=dev/${port##*/} ;;
    err) err=dev/${port##*/} ;;
    esac
done
exec 3>"$out" 4>"$err"
cp /command /end run/
mount --move . /
if [ -e /interactive ]; then
    chroot . /bin/setsid --ctty /bin/sh /run/command <dev/hvc0 >dev/hvc0 2>&1
else
    chroot . /bin/sh /run/command <dev/null >&3 2>&4
fi
status=$?
read -r end <run/end
printf '\036%s %d\n' "$end" "$status" >&3
printf '\036%s %d\n' "$end" "$status" >&4
# The host ends the machine as soon as it has read that.
while :; do sleep 1000; done
