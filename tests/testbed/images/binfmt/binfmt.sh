#!/bin/sh
# --install ARCH[,ARCH] registers, --uninstall NAME removes, and the state goes to stdout as JSON.
# Like tonistiigi/binfmt it logs what fails and still exits 0.
table=/proc/sys/fs/binfmt_misc
magic='\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
mounted=

log() {
    echo "$(date '+%Y/%m/%d %H:%M:%S') $*" >&2
}

add() {
    if [ -e "$table/qemu-aarch64" ]; then
        log "installing: $1 qemu-aarch64 already registered"
    elif [ "$1" != arm64 ] && [ "$1" != aarch64 ] && [ "$1" != all ]; then
        log "installing: $1 unsupported architecture"
    elif printf '%s' ":qemu-aarch64:M:0:$magic:$mask:/usr/bin/qemu-aarch64:CF" 2>/dev/null >"$table/register"; then
        log "installing: $1 OK"
    else
        log "installing: $1 cannot register to $table/register"
    fi
}

remove() {
    name=$1
    [ "$name" = arm64 ] && name=qemu-aarch64
    if [ ! -e "$table/$name" ]; then
        log "uninstalling: $1 not found"
    elif printf '%s' -1 2>/dev/null >"$table/$name"; then
        log "uninstalling: $1 OK"
    else
        log "uninstalling: $1 cannot remove $table/$name"
    fi
}

# Print the arguments as the elements of a JSON array.
elements() {
    comma=
    for element in "$@"; do
        printf '%s\n    "%s"' "$comma" "$element"
        comma=,
    done
}

if [ ! -e "$table/status" ]; then
    if mount -t binfmt_misc binfmt_misc "$table"; then
        mounted=yes
    else
        log "error: cannot mount binfmt_misc filesystem at $table"
    fi
fi

while [ $# -gt 0 ]; do
    case "$1" in
        --install | -install) action=add ;;
        --uninstall | -uninstall) action=remove ;;
        --version | -version) echo "binfmt/testbed qemu/debian"; exit 0 ;;
        *) log "error: unknown argument $1"; exit 1 ;;
    esac
    shift
    for arch in $(echo "$1" | tr , ' '); do
        "$action" "$arch"
    done
    shift
done

supported="linux/amd64 linux/amd64/v2 linux/386"
emulators=
for entry in "$table"/*; do
    name=${entry##*/}
    case "$name" in register | status | '*') continue ;; esac
    emulators="$emulators $name"
    # Whoever registered it and under whatever name, what counts is the ELF machine (b7) and that it is enabled.
    if grep -q '^enabled' "$entry" && grep -q '^magic 7f454c46.*b7' "$entry"; then
        case "$supported" in *arm64*) ;; *) supported="$supported linux/arm64" ;; esac
    fi
done
printf '{\n  "supported": [%s\n  ],\n  "emulators": ' "$(elements $supported)"
if [ -n "$emulators" ]; then
    printf '[%s\n  ]\n}\n' "$(elements $emulators)"
else
    printf 'null\n}\n'
fi
[ -z "$mounted" ] || umount "$table"
exit 0
