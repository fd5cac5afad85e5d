#!/usr/bin/env python3
"""Writes what each image holds as CycloneDX: target/sbom/NAME.cdx.json, for every image that was laid out below target/images.

Usage: images/sbom.py CARGO_CYCLONEDX

Crates as cargo-cyclonedx describes them, but only those that cargo builds for the program's own package: cargo-cyclonedx takes
the features that any member of the workspace asks for, and told of Kubernetes crates in a server without any. Then the packages
of Debian and the wheels that libraries in the image come from. Standard library only.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import quote

ROOT = Path(__file__).resolve().parent.parent
CARGO = os.environ.get("CARGO", "cargo")
MEMBERS = ["crds", "operator", "server", "tests"]
IMAGES = {  # image: (folder of the crate, features)
    "operator": ("operator", []),
    "server": ("server", []),
    "server-cuda": ("server", ["--features", "cuda"]),
}


def output(*command):
    """What a command prints."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout


def host():
    """The target that cargo builds for."""
    return next(line.split()[1] for line in output("rustc", "-vV").splitlines() if line.startswith("host: "))


def built_crates(package, features):
    """(name, version) of each crate that cargo builds for a package, build scripts' own included."""
    lines = output(
        CARGO, "tree", "--locked", "--package", package, *features,
        "--edges", "normal,build", "--target", host(), "--prefix", "none", "--format", "{p}",
    ).splitlines()  # fmt: skip
    return {(words[0], words[1].removeprefix("v")) for words in map(str.split, lines) if len(words) > 1}


def describe(cyclonedx, folder, package, features):
    """cargo-cyclonedx's document, which it writes beside the manifest: a copy of the manifests, so that no source tree is touched."""
    with tempfile.TemporaryDirectory() as copy:
        for name in ["Cargo.toml", "Cargo.lock"]:
            shutil.copy(ROOT / name, copy)
        for member in MEMBERS:
            shutil.copytree(ROOT / member / "src", Path(copy, member, "src"))
            shutil.copy(ROOT / member / "Cargo.toml", Path(copy, member))
        subprocess.run(
            [cyclonedx, "cyclonedx", "--quiet", "--format", "json", "--spec-version", "1.5", "--describe", "binaries",
             "--target", host(), *features, "--manifest-path", Path(copy, folder, "Cargo.toml")],
            check=True,
        )  # fmt: skip
        text = Path(copy, folder, f"{package}_bin.cdx.json").read_text()
    # Where the copy lay is nobody's business: `path+file:///tmp/x/server#rerank-server@0.1.0` says no more than its end.
    return json.loads(text.replace(f"path+file://{copy}/", "workspace:"))


def keep(document, crates):
    """Removes the crates that are not built."""
    kept = [it for it in document["components"] if (it["name"], it["version"]) in crates]
    missing = crates - {(it["name"], it["version"]) for it in [*kept, document["metadata"]["component"]]}
    if missing:
        sys.exit(f"cargo builds crates that cargo-cyclonedx does not know: {sorted(missing)}")
    references = {it["bom-ref"] for it in [*kept, document["metadata"]["component"]]}
    document["components"] = kept
    document["dependencies"] = [
        {**it, "dependsOn": [other for other in it.get("dependsOn", []) if other in references]}
        for it in document["dependencies"]
        if it["ref"] in references
    ]
    for component in [*kept, document["metadata"]["component"]]:
        component["purl"] = component["purl"].split("?download_url=file:")[0]


def component(purl, name, version):
    """A component that is not a crate."""
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "scope": "required", "purl": purl}


def debian_packages(context):
    """The packages that the context's libraries and roots come from, as images/stage.sh noted them."""
    release = dict(
        line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line
    )
    system, number = (release.get(key, "").strip('"') for key in ["ID", "VERSION_ID"])
    for line in (context / "packages").read_text().splitlines():
        name, version, architecture, _ = line.split(" ")
        purl = f"pkg:deb/{system}/{name}@{quote(version, safe='')}?arch={architecture}&distro={system}-{number}"
        yield component(purl, name, version)


def wheels(context):
    """The wheels that the context's libraries come from."""
    libraries = {path.name for path in (context / "system").rglob("*.so.*")}
    for record in sorted((ROOT / "target/cuda/wheels").glob("lib/python3*/site-packages/*.dist-info/RECORD")):
        files = {line.split(",")[0] for line in record.read_text().splitlines()}
        if libraries & {name.split("/")[-1] for name in files if name.startswith("nvidia/") and "/lib/" in name}:
            name, version = record.parent.name.removesuffix(".dist-info").split("-")
            name = name.replace("_", "-")
            yield component(f"pkg:pypi/{name}@{version}", name, version)


def main():
    """One document for each image that is laid out."""
    if len(sys.argv) != 2:
        sys.exit("usage: images/sbom.py CARGO_CYCLONEDX")
    cyclonedx = Path(sys.argv[1]).resolve()
    os.environ.setdefault("SOURCE_DATE_EPOCH", output("git", "log", "-1", "--format=%ct").strip())
    laid_out = [name for name in IMAGES if (ROOT / "target/images" / name / "packages").is_file()]
    if not laid_out:
        sys.exit("no image is laid out below target/images; make them first (make images)")
    target = ROOT / "target/sbom"
    target.mkdir(parents=True, exist_ok=True)
    for name in laid_out:
        folder, features = IMAGES[name]
        package = f"rerank-{folder}"
        context = ROOT / "target/images" / name
        document = describe(cyclonedx, folder, package, features)
        keep(document, built_crates(package, features))
        crates = len(document["components"])
        beside = [*debian_packages(context), *(wheels(context) if name == "server-cuda" else [])]
        document["components"] += beside
        document["dependencies"] += [{"ref": it["bom-ref"], "dependsOn": []} for it in beside]
        program = (context / "program/usr/bin" / package).read_bytes()
        document["metadata"]["component"]["hashes"] = [
            {"alg": "SHA-256", "content": hashlib.sha256(program).hexdigest()}
        ]
        file = target / f"rerank-{name}.cdx.json"
        file.write_text(json.dumps(document, indent=2) + "\n")
        told = ", ".join(f"{it['name']} {it['version']}" for it in beside)
        print(f"{file.relative_to(ROOT)}: {crates} crates, {told or 'nothing else'}")


if __name__ == "__main__":
    main()
