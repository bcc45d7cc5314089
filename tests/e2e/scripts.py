"""Programs that tests run inside a host, which has nothing of this tree."""

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
