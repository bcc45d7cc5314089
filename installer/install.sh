#!/bin/sh
# Runs the installer where there is no Python 3.9 or later, in a container from the Python image in the archive:
#
#     tar -xOf offline.tar install.sh | sh -s -- offline.tar install [OPTION]...
#
# POSIX sh and the tools of any system, busybox included. Of the archive only the Python image is read here, from its
# place, and given to `docker load`. The installer in the container speaks to the Docker socket itself; what the docker
# command has to do (buildx) it asks of this script, which runs it here, as the user who called it: a docker command
# and its plugins are made for this system's libraries, not for a container's.
#
# `bundle create` fills in what stands between @: places in the archive, in blocks of 512 bytes.
set -eu
umask 022

fail() { # CODE MESSAGE [NEXT]
    printf 'error: %s\n' "$2" >&2
    [ -z "${3-}" ] || printf '  next: %s\n' "$3" >&2
    exit "$1"
}

bytes() { # FILE: its size
    # ls is the only POSIX command that tells the size of a file without reading it.
    # shellcheck disable=SC2012
    ls -lnL -- "$1" | awk '{ print $5; exit }'
}

owner_group() { # FILE: the number of its group
    # shellcheck disable=SC2012
    ls -lnL -- "$1" | awk '{ print $4; exit }'
}

absolute() { # PATH: the same file from the root, without links in its directory
    (cd "$(dirname -- "$1")" && printf '%s/%s' "$(pwd -P | sed 's:^/$::')" "$(basename -- "$1")")
}

part() { # NUMBER: the path of that part; the first is the whole when there are no parts
    if [ -n "$parts" ]; then printf '%s.%03d' "$whole" "$1"; else printf '%s' "$whole"; fi
}

find_archive() { # PATH: sets whole, parts (empty without parts), last (the file with the program) and size
    whole=$1 parts=''
    case $1 in
    *.[0-9][0-9][0-9]) [ ! -e "${1%.*}.001" ] || whole=${1%.*} parts=yes ;;
    *) [ -e "$1" ] || [ ! -e "$1.001" ] || parts=yes ;;
    esac
    [ -e "$(dirname -- "$1")" ] || fail 3 "\`$1\` cannot be opened: no such file" "give the path of the archive"
    whole=$(absolute "$whole")
    number=1 size=0
    while [ -f "$(part "$number")" ]; do
        last=$(part "$number")
        size=$((size + $(bytes "$last")))
        number=$((number + 1))
        [ -n "$parts" ] || break
    done
    [ "$number" -gt 1 ] || fail 3 "\`$(part 1)\` cannot be opened: no such file" "give the path of the archive"
    [ "$size" -eq "$expected" ] || fail 3 "\`$1\` is not whole, or another archive: $size of $expected bytes are there" \
        "copy the archive again from where it was created; all parts go into one directory"
}

blocks() { # SKIP COUNT: that many blocks of the archive, from that one on
    skip=$1 left=$2 number=1
    while [ "$left" -gt 0 ]; do
        file=$(part "$number")
        have=$(bytes "$file")
        [ $((have % 512)) -eq 0 ] || [ "$file" = "$last" ] ||
            fail 1 "the parts are not cut at blocks of 512 bytes" "cat $whole.??? > $whole, and give that"
        have=$((have / 512))
        if [ "$skip" -lt "$have" ]; then
            count=$((have - skip))
            [ "$count" -le "$left" ] || count=$left
            dd if="$file" bs=512 skip="$skip" count="$count" 2>/dev/null || fail 3 "\`$file\` cannot be read"
            left=$((left - count)) skip=0
        else
            skip=$((skip - have))
        fi
        number=$((number + 1))
    done
}

python_image() { # PLATFORM: sets image (its name in Docker), ids and slices (SKIP COUNT ...)
    image='' ids='' slices=''
    case $1 in
    @PYTHON@) ;;
    esac
}

find_docker() { # sets socket and platform
    command -v docker >/dev/null || fail 4 "there is no docker command in PATH" "install the package docker-ce-cli"
    endpoint=$(docker context inspect -f '{{.Endpoints.docker.Host}}') || fail 4 "the docker context cannot be used" "docker context ls"
    [ -z "${DOCKER_HOST-}" ] || endpoint=$DOCKER_HOST
    case $endpoint in
    unix://*) socket=${endpoint#unix://} ;;
    *) fail 4 "the engine is on another machine (\`$endpoint\`), and what is installed belongs to the machine it runs on" \
        "run this on that machine; or: unset DOCKER_HOST; docker context use default" ;;
    esac
    [ -S "$socket" ] || fail 4 "Docker is not running: there is no socket \`$socket\`" "sudo systemctl start docker"
    platform=$(docker version -f '{{.Server.Os}}/{{.Server.Arch}}') ||
        fail 4 "Docker does not answer" "docker version; sudo usermod -aG docker $(id -un), then log in again"
    case $(docker info -f '{{.SecurityOptions}}') in
    *name=rootless*) fail 4 "the engine is rootless: its containers do not see this host's files and ports as they are" \
        "run the archive with a python3 of 3.9 or later" ;;
    esac
}

find_home() { # under sudo, the home of who called it, when that user uses Docker without sudo
    [ "$(id -u)" -eq 0 ] && [ -n "${SUDO_USER-}" ] || return 0
    case $SUDO_USER in *[!A-Za-z0-9._-]*) return 0 ;; esac
    for group in $(id -G "$SUDO_USER" 2>/dev/null); do
        if [ "$group" -eq 0 ] || [ "$group" -ne "$(owner_group "$socket")" ]; then continue; fi
        eval "home=~$SUDO_USER"
        # shellcheck disable=SC2154
        [ ! -d "$home" ] || export HOME="$home"
    done
}

load_python() { # gives the image to Docker, unless it is there
    found=$(docker image inspect -f '{{.Id}}' "$image" 2>/dev/null) || found=
    case " $ids " in *" $found "*) return ;; esac
    printf 'loading Python from the archive\n' >&2
    loaded=$image
    # shellcheck disable=SC2086
    { stream $slices && dd if=/dev/zero bs=512 count=2 2>/dev/null; } | docker load -q >/dev/null ||
        fail 1 "Docker cannot load the Python image"
    found=$(docker image inspect -f '{{.Id}}' "$image" 2>/dev/null) || found=none
    case " $ids " in
    *" $found "*) ;;
    *) fail 3 "the Python image in the archive is damaged: it became \`$found\`" "copy the archive again from where it was created" ;;
    esac
}

stream() { # SKIP COUNT ...
    while [ $# -gt 0 ]; do
        blocks "$1" "$2"
        shift 2
    done
}

mount_once() { # PATH ro|rw: the nearest directory of PATH that exists, at the same place in the container
    place=$1
    while [ ! -d "$place" ] && [ "$place" != / ]; do place=$(dirname -- "$place"); done
    place=$(cd "$place" && pwd -P)
    # These are the container's own.
    case $place in
    / | /bin | /etc | /lib | /lib[0-9x]* | /run | /sbin | /usr) return ;;
    /dev | /dev/* | /lib/* | /proc | /proc/* | /sys | /sys/* | /usr/*) return ;;
    esac
    case "$mounted" in *":$place:"*) return ;; esac
    mounted="$mounted$place:"
    bind "$place" "$place" "$2"
}

bind() { # SOURCE TARGET ro|rw: adds a mount
    case $1$2 in *[,\"]*) fail 4 "\`$1\` cannot be given to a container: its name has a comma or a quote" "move it" ;; esac
    mounts="$mounts--mount
type=bind,src=$1,dst=$2$([ "$3" = rw ] || printf ',readonly')
"
}

# shellcheck disable=SC2120
relay() { # runs here what the installer in the container asks for, one command at a time
    while read -r word <"$shared/ask" && [ "$word" = run ]; do
        code=0
        (
            # The installer quoted the words for a shell.
            # shellcheck disable=SC1091
            . "$shared/command"
            exec "$@"
        ) <"$shared/stdin" >"$shared/stdout" 2>"$shared/stderr" || code=$?
        printf '%s\n' "$code" >"$shared/answer"
    done
}

clean_up() {
    trap '' INT TERM HUP
    [ -z "$relay" ] || kill "$relay" 2>/dev/null || :
    [ -z "$shared" ] || rm -rf "$shared"
    [ -z "$loaded" ] || docker image rm "$loaded" >/dev/null 2>&1 || :
}

main() {
    [ $# -ge 2 ] || fail 2 "expected an archive and a command" "tar -xOf offline.tar install.sh | sh -s -- offline.tar install"
    archive=$1
    shift
    for word in "$@"; do
        case $word in
        --log-file*) fail 2 "\`--log-file\` does not work in a container" "add 2>FILE to the command" ;;
        --system) [ -d /usr/local/lib/docker/cli-plugins ] ||
            fail 2 "\`--system\` needs a directory to give to the container" "sudo mkdir -p /usr/local/lib/docker/cli-plugins" ;;
        esac
    done
    expected=@SIZE@
    find_archive "$archive"
    find_docker
    python_image "$platform"
    [ -n "$image" ] || fail 4 "this archive has no Python image for $platform" \
        "bring a python3 of 3.9 or later, or create the archive with --with-python"
    find_home

    relay='' shared='' loaded=''
    trap clean_up EXIT
    trap 'exit 130' INT TERM HUP
    load_python
    shared=$(mktemp -d)
    mkfifo "$shared/ask" "$shared/answer"
    : >"$shared/stdin"

    mounts='' mounted=:
    bind / /host ro
    bind "$socket" "$socket" rw
    bind "$shared" /run/bundle rw
    for place in "${DOCKER_CONFIG:-$HOME/.docker}" "${BUILDX_CONFIG:-$HOME/.docker/buildx}" "${XDG_STATE_HOME:-$HOME/.local/state}"; do
        mount_once "$place" rw
    done
    for place in /etc/docker /usr/local/lib/docker/cli-plugins; do
        [ ! -d "$place" ] || bind "$place" "$place" rw
    done
    case "$*" in
    want | 'want '* | 'inspect '*--html*) mount_once "$PWD" rw ;; # these write a file there
    *) mount_once "$PWD" ro ;;
    esac
    number=1
    while [ -f "$(part "$number")" ]; do
        bind "$(part "$number")" "$(part "$number")" ro
        number=$((number + 1))
        [ -n "$parts" ] || break
    done

    export DOCKER_CLI_HINTS=false
    # shellcheck disable=SC2119
    relay </dev/null &
    relay=$!
    run_installer "$@" </dev/null
}

run_installer() { # COMMAND [OPTION]...
    # Arguments before the image: one on a line in `mounts`, which has no other line feeds.
    # By the id that was compared: a name may be given to another image meanwhile.
    set -- "$found" "$last" "$@"
    saved_ifs=$IFS
    IFS='
'
    set -f
    for group in $(id -G | tr ' ' '\n'); do set -- --group-add "$group" "$@"; done
    for name in HOME DOCKER_CONFIG BUILDX_CONFIG XDG_STATE_HOME DOCKER_HOST DOCKER_CONTEXT SUDO_UID SUDO_GID NO_COLOR; do
        eval "value=\${$name-}"
        # shellcheck disable=SC2154
        [ -z "$value" ] || set -- --env "$name=$value" "$@"
    done
    # shellcheck disable=SC2086
    set -- $mounts "$@"
    IFS=$saved_ifs
    set +f
    case $mounted in *":$(pwd -P):"*) set -- --workdir "$(pwd -P)" "$@" ;; esac
    # Docker would copy the proxies of its config.json, passwords and all, into what `docker inspect` shows.
    for name in HTTP_PROXY HTTPS_PROXY FTP_PROXY ALL_PROXY http_proxy https_proxy ftp_proxy all_proxy; do
        set -- --env "$name=" "$@"
    done
    docker run --rm --pull never --read-only --tmpfs /tmp --network host --pid host --userns host --log-driver none \
        --security-opt label=disable --security-opt apparmor=unconfined --user "$(id -u):$(id -g)" \
        --env BUNDLE_HOST=/host --env BUNDLE_RELAY=/run/bundle --entrypoint python3 "$@"
}

main "$@"
