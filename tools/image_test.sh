#!/usr/bin/env bash
# Builds the Dockerfile without docker, and runs what comes out: buildah in a chroot, over a base that
# debootstrap makes in the place of python:3.11-slim-bookworm (the same Debian, its own Python 3.11).
# As root, on Debian or Ubuntu, with buildah and debootstrap. The CPU variant unless DEVICE says so.
#
# PIP_FIND_LINKS, PIP_CERT and PIP_RETRIES mean in the build what they mean to pip here.
set -euo pipefail
cd "$(dirname "$0")/.."

device=${DEVICE:-cpu}
work=${WORK:-$(mktemp -d)}
export STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot
buildah() { command buildah --root "$work/storage" --runroot "$work/run" "$@"; }

if [ ! -e "$work/rootfs/usr/bin/python" ]; then
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$work/rootfs"
    ln -s python3 "$work/rootfs/usr/bin/python"
fi
base=$(buildah from scratch)
buildah add --quiet "$base" "$work/rootfs" / >/dev/null
buildah commit --quiet "$base" docker.io/library/python:3.11-slim-bookworm >/dev/null
buildah rm "$base" >/dev/null

# What pip needs to know of this machine goes in beside the Dockerfile, not into it.
volumes=(--volume "$work/pip.conf:/etc/pip.conf:ro")
printf '[global]\nretries = %s\n' "${PIP_RETRIES:-5}" >"$work/pip.conf"
if [ -n "${PIP_FIND_LINKS:-}" ]; then
    volumes+=(--volume "$PIP_FIND_LINKS:$PIP_FIND_LINKS:ro")
    echo "find-links = $PIP_FIND_LINKS" >>"$work/pip.conf"
fi
if [ -n "${PIP_CERT:-}" ]; then
    volumes+=(--volume "$PIP_CERT:/etc/pip-cert.pem:ro")
    echo "cert = /etc/pip-cert.pem" >>"$work/pip.conf"
fi
buildah build --pull=never --network host --build-arg "DEVICE=$device" --build-arg FLASH_ATTN=0 \
    "${volumes[@]}" --tag phi3v-server:test .

container=$(buildah from --pull=never phi3v-server:test)
root=$(buildah mount "$container")
echo "== $(du -sh "$root" | cut -f1) in the image"
buildah run --network host "$container" -- phi3v --help >/dev/null
setsid buildah --root "$work/storage" --runroot "$work/run" run --network host \
    --env PHI3V_NO_AUTH=true --env PHI3V_PORT=5011 "$container" -- phi3v serve &
server=$!
trap 'kill -- -$server 2>/dev/null || true' EXIT
for _ in $(seq 120); do
    if curl -fs http://127.0.0.1:5011/health/ready >/dev/null; then break; fi
    sleep 1
done
curl -fsS http://127.0.0.1:5011/chat/completions -H 'Content-Type: application/json' \
    -d '{"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5}'
echo
echo "== the image answers"
