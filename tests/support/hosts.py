"""What end-to-end tests on air-gapped hosts share: the two addresses, and all that a host is made of."""

from __future__ import annotations

LOCAL = "localhost:5000"
LAN = "192.168.10.10:5000"

# Everything on the host that installing could change, a line each, but for the kernel's table of emulators, which is
# the whole machine's. What Docker and the kernel change by themselves is left out, and so are times.
STATE = r"""
find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /tmp -o -path /var/log -o -path /usb \
    -o -path /var/lib/docker -o -path /var/lib/containerd \) -prune -o -type f -printf 'file %p %m %U %s\n' \
    -o -printf '%y %p %m %U\n' | sort
find /etc /root /srv /usr/local -xdev -type f -exec sha256sum {} + | sort
docker ps -a --format 'container {{.Names}}' | sort
docker volume ls --format 'volume {{.Name}}' | sort
docker images -a --no-trunc --format 'image {{.Repository}}:{{.Tag}} {{.ID}}' | sort
docker info --format 'insecure {{json .RegistryConfig.IndexConfigs}}'
"""
