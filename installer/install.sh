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
# With it `cd` prints, and may go elsewhere.
unset CDPATH

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

own() { # PATH: whether the container has files of its own there, without which it does not run
    case ":$image_path:" in *":$1:"* | *":$1/"*) return 0 ;; esac
    case $1 in
    / | /bin | /etc | /lib | /lib[0-9x]* | /run | /sbin | /usr) return 0 ;;
    /bin/* | /dev | /dev/* | /host | /host/* | /lib/* | /proc | /proc/* | /sbin/* | /sys | /sys/*) return 0 ;;
    /usr/bin/* | /usr/lib* | /usr/sbin/* | /usr/local/bin/* | /usr/local/lib* | /usr/local/sbin/*) return 0 ;;
    /usr/local/*/*) return 1 ;;
    /usr/local/*) return 0 ;;
    /usr/*/*) return 1 ;;
    /usr/*) return 0 ;;
    esac
    return 1
}

mount_once() { # DIRECTORY ro|rw: the same place in the container, once; fails where the container has files of its own
    ! own "$1" || return 1
    case "$mounted" in *":$1:"*) return 0 ;; esac
    mounted="$mounted$1:"
    bind "$1" "$1" "$2"
}

show() { # PATH: a file or directory that a word names, where it is not below a directory that is mounted whole
    if [ -d "$1" ]; then place=$(cd -- "$1" 2>/dev/null && pwd -P); else place=$(absolute "$1"); fi || return 0
    top=${place#/}
    # A link may lead to where the container has another file, or none.
    case "$mounted" in *":/${top%%/*}:"*) [ -L "$place" ] || return 0 ;; esac
    case $place in /dev/* | /host/* | /proc/* | /sys/*) return 0 ;; esac
    if [ -d "$place" ]; then
        mount_once "$place" ro || :
    elif [ -f "$place" ]; then
        case "$mounted" in *":$place:"*) return 0 ;; esac
        mounted="$mounted$place:"
        bind "$place" "$place" ro
    fi
}

show_words() { # WORD...: the files and directories of the host that options and arguments name
    for word in "$@"; do
        case $word in --*=*) word=${word#*=} ;; esac
        [ -e "$word" ] || continue
        show "$word"
        case $word in /*) ;; *) continue ;; esac
        # There may be a link on the way, such as /run/media/new -> /srv/job.
        rest=${word#/*/}
        next=${rest%%/*} top=${word%"$rest"}
        case $next,$mounted in
        ,* | .,* | ..,* | *":${top%/}:"*) ;;
        *) [ ! -d "$top$next" ] || mount_once "$top$next" ro || : ;;
        esac
    done
}

make_given() { # DIRECTORY PATH: makes that path below it; what root makes there belongs to the directory's owner
    # Its owner may put a link in the place of anything below it, at any moment. So this stands in each directory that it
    # gives away, and has seen that it is below the one before.
    (
        umask 077
        cd -P -- "$1" || exit 1
        owner=$(stat -c %u:%g .) || owner=''
        rest=${2#"${1%/}"/}
        while [ -n "$rest" ]; do
            name=${rest%%/*} above=$(stat -c %d:%i .) || above=''
            case $rest in */*) rest=${rest#*/} ;; *) rest='' ;; esac
            case $name in '' | .) continue ;; esac
            mkdir -- "$name" && cd -P -- "$name" || exit 1
            [ -n "$owner" ] || continue
            [ "$(stat -c %d:%i ..)" = "$above" ] && chown "$owner" . || exit 1
        done
    )
}

give() { # DIRECTORY yes|no: to write to; where it is missing it is made, and removed again if it stays empty
    above=$1 missing=''
    while [ ! -d "$above" ]; do
        missing="$missing$above
"
        above=$(dirname -- "$above")
    done
    if [ -n "$missing" ]; then
        [ "$2" = yes ] || return 0
        if [ "$(id -u)" -eq 0 ]; then
            make_given "$above" "$1" 2>/dev/null || return 0
        else
            (umask 077 && mkdir -p -- "$1") 2>/dev/null || return 0
        fi
        made="$missing$made"
    fi
    place=$(cd -- "$1" 2>/dev/null && pwd -P) || return 0
    mount_once "$place" rw || :
}

write_beside() { # FILE: its directory, to write to
    case $1 in /dev/*) return 0 ;; esac
    place=$(dirname -- "$1")
    [ -d "$place" ] || return 0
    place=$(cd -- "$place" 2>/dev/null && pwd -P) || return 0
    mount_once "$place" rw || fail 2 "\`$1\` cannot be written: the container has files of its own in \`$place\`" \
        "name a file in another directory"
}

write_export() { # FORMAT:FILE: the same for the file; - is none
    case $1 in *:-) ;; *:*) write_beside "${1#*:}" ;; esac
}

write_words() { # COMMAND [OPTION]...: the places of the files that the command writes
    list=want.json before=''
    [ "$1" = want ] || list=''
    for word in "$@"; do
        case $before in
        --html | --log-file) write_beside "$word" ;;
        --output | -o | -q*o) list=$word ;;
        --to) write_export "$word" ;;
        esac
        case $word in
        --html=* | --log-file=*) write_beside "${word#*=}" ;;
        --to=*) write_export "${word#*=}" ;;
        --output=*) list=${word#*=} ;;
        -o?*) list=${word#-o} ;;
        esac
        before=$word
    done
    [ -z "$list" ] || write_beside "$list"
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
    # No other signal is sure to reach a shell that has only just begun.
    [ -z "$relay" ] || kill -9 "$relay" 2>/dev/null || :
    IFS='
'
    set -f
    # What is mounted cannot be removed from in there.
    [ -z "$shared" ] || [ ! -f "$shared/empty" ] || made="$(cat "$shared/empty")
$made"
    for place in $made; do rmdir -- "$place" 2>/dev/null || :; done
    [ -z "$shared" ] || rm -rf "$shared"
    [ -z "$loaded" ] || docker image rm "$loaded" >/dev/null 2>&1 || :
}

main() {
    [ $# -ge 2 ] || fail 2 "expected an archive and a command" "tar -xOf offline.tar install.sh | sh -s -- offline.tar install"
    archive=$1
    shift
    for word in "$@"; do
        case $word in
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

    relay='' shared='' loaded='' made=''
    trap clean_up EXIT
    trap 'exit 130' INT TERM HUP
    load_python
    shared=$(mktemp -d)
    mkfifo "$shared/ask" "$shared/answer"
    : >"$shared/stdin"

    mounts='' mounted=:
    image_path=$(docker image inspect -f '{{range .Config.Env}}{{println .}}{{end}}' "$image" | sed -n 's/^PATH=//p')
    bind / /host ro
    bind "$socket" "$socket" rw
    bind "$shared" /run/bundle rw
    config=${DOCKER_CONFIG:-$HOME/.docker}
    case $1 in install | join | upgrade | doctor) making=yes ;; *) making=no ;; esac
    for place in "$config" "${BUILDX_CONFIG:-$config}" "${XDG_STATE_HOME:-$HOME/.local/state}/bundle"; do
        give "$place" "$making"
    done
    place=/usr/local/lib/docker/cli-plugins
    [ ! -d "$place" ] || bind "$place" "$place" rw
    [ ! -d /etc/docker ] || mount_once /etc/docker rw
    write_words "$@"
    # All that a path of the host may lead to is where it is, so that no name and no link means something else in there.
    for place in /*; do
        case $place in *[,\"]*) continue ;; esac
        [ ! -d "$place" ] || mount_once "$place" ro || :
    done
    show .
    show_words "$@"
    number=1
    while [ -f "$(part "$number")" ]; do
        show "$(part "$number")"
        number=$((number + 1))
        [ -n "$parts" ] || break
    done

    export DOCKER_CLI_HINTS=false
    # shellcheck disable=SC2119
    relay </dev/null &
    relay=$!
    input=''
    for word in "$@"; do
        [ "$word" != --password-stdin ] || input=yes
    done
    if [ -n "$input" ]; then run_installer "$@"; else run_installer "$@" </dev/null; fi
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
    directory=$(pwd -P)
    ! own "$directory" || directory=/host$directory
    # Root may look at which process has Docker's socket.
    [ "$(id -u)" -ne 0 ] || set -- --cap-add SYS_PTRACE "$@"
    # Docker would copy the proxies of its config.json, passwords and all, into what `docker inspect` shows.
    for name in HTTP_PROXY HTTPS_PROXY FTP_PROXY ALL_PROXY http_proxy https_proxy ftp_proxy all_proxy; do
        set -- --env "$name=" "$@"
    done
    # The user's environment may name another platform, or ask for signatures: neither is meant for this image.
    DOCKER_DEFAULT_PLATFORM='' DOCKER_CONTENT_TRUST=0 \
        docker run --rm ${input:+--interactive} --pull never --read-only --network host --pid host --userns host --log-driver none \
        --security-opt label=disable --security-opt apparmor=unconfined --user "$(id -u):$(id -g)" \
        --env BUNDLE_HOST=/host --env BUNDLE_RELAY=/run/bundle --env "BUNDLE_MADE=$made" --env TMPDIR=/run/bundle \
        --workdir "$directory" --entrypoint python3 "$@"
}

main "$@"
