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

# Fetch an image by name from a registry whole: every manifest that is there and every blob, against its digest.
# Prints the platforms that are there.
PULL = """
import hashlib, json, sys, urllib.error, urllib.request
accept = ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json",
          "application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"]
def get(repository, kind, name):
    url = f"http://{sys.argv[1]}/v2/{repository}/{kind}/{name}"
    data = urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": ", ".join(accept)})).read()
    assert ":" not in name or name == "sha256:" + hashlib.sha256(data).hexdigest(), name
    return data
for name in sys.argv[2:]:
    repository, _, selector = name.partition("@") if "@" in name else name.rpartition(":")
    found = []
    try:
        value = json.loads(get(repository, "manifests", selector))
        for child in value.get("manifests") or [None]:
            try:
                manifest = json.loads(get(repository, "manifests", child["digest"])) if child else value
            except urllib.error.HTTPError:
                continue
            if child and child["platform"]["architecture"] == "unknown":
                continue
            for blob in [manifest["config"], *manifest["layers"]]:
                get(repository, "blobs", blob["digest"])
            found += [child["platform"]["architecture"] if child else "any"]
        print(name, ",".join(found))
    except urllib.error.HTTPError as error:
        print(name, error.code)
"""
