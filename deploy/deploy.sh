#!/usr/bin/env bash
# Deploys to an Azure ML managed online endpoint, blue beside green: the new deployment gets the
# traffic only after it has answered the smoke test, and the old one stays for a roll-back.
#
#   deploy/deploy.sh [deployment.yml]    create or update, test, shift the traffic
#   deploy/deploy.sh rollback            give the traffic back to the other one
#   deploy/deploy.sh cleanup             delete the one without traffic, which costs as much
#
# Needs `az login`, the ml extension, and where to: az configure --defaults group=… workspace=…
# ENDPOINT_NAME: the endpoint (phi3v), PYTHON an interpreter with azure-ai-inference (python3).
set -euo pipefail
cd "$(dirname "$0")/.."

endpoint=${ENDPOINT_NAME:-phi3v}
python=${PYTHON:-python3}

say() { printf '== %s\n' "$*" >&2; }

# The deployment that has the traffic; nothing where none has. An error where it is split by hand, as
# neither is a spare one then, and where Azure does not say.
live() {
    local color share found=
    for color in blue green; do
        share=$(az ml online-endpoint show --name "$endpoint" \
            --query "traffic.$color || \`0\`" --output tsv) || return 1
        if [ "${share:-0}" -gt 0 ]; then
            if [ -n "$found" ]; then
                say "both have traffic: give it to one first, with" \
                    "az ml online-endpoint update --name $endpoint --traffic 'blue=100 green=0'"
                return 1
            fi
            found=$color
        fi
    done
    echo "$found"
}

other() { if [ "$1" = blue ]; then echo green; else echo blue; fi; }

exists() { az ml online-deployment show --endpoint-name "$endpoint" --name "$1" >/dev/null 2>&1; }

give_traffic_to() {
    local shares="$1=100"
    if exists "$(other "$1")"; then
        shares+=" $(other "$1")=0"
    fi
    say "traffic: $shares"
    az ml online-endpoint update --name "$endpoint" --traffic "$shares" >/dev/null
}

deploy() {
    local file=$1 environment old new verb uri key
    environment=$(sed -n 's/^environment: azureml:\(.*\)@latest$/\1/p' "$file")

    say "environment $environment"
    if [ "$environment" = phi3v-server ]; then
        make wheel >&2
    fi
    az ml environment create --file "deploy/environment${environment#phi3v-server}.yml" >/dev/null

    say "endpoint $endpoint"
    if ! az ml online-endpoint show --name "$endpoint" >/dev/null 2>&1; then
        az ml online-endpoint create --name "$endpoint" --file deploy/endpoint.yml >/dev/null
    fi

    old=$(live)
    new=$(other "${old:-green}")
    verb=create
    if exists "$new"; then
        verb=update
    fi
    say "deployment $new ($verb), from $file"
    az ml online-deployment "$verb" --endpoint-name "$endpoint" --name "$new" --file "$file" >/dev/null

    uri=$(az ml online-endpoint show --name "$endpoint" --query scoring_uri --output tsv)
    key=$(az ml online-endpoint get-credentials --name "$endpoint" \
        --query "primaryKey || accessToken" --output tsv)  # by the endpoint's auth_mode
    say "smoke test of $new"
    if ! PHI3V_API_KEY=$key "$python" deploy/smoke_test.py "${uri%/score}" --deployment "$new"; then
        say "$new does not answer as it should; the traffic stays where it is. Its log:"
        az ml online-deployment get-logs --endpoint-name "$endpoint" --name "$new" --lines 50 >&2 || true
        return 1
    fi
    give_traffic_to "$new"
    if [ -n "$old" ]; then
        say "$old is still there: '$0 rollback' gives it the traffic, '$0 cleanup' deletes it"
    fi
}

# The one without traffic, beside the one with.
spare() {
    local old
    old=$(live) || return 1
    if [ -z "$old" ] || ! exists "$(other "$old")"; then
        say "there is no other deployment"
        return 1
    fi
    other "$old"
}

case "${1:-deployment.yml}" in
    rollback)
        spare=$(spare)
        give_traffic_to "$spare"
        ;;
    cleanup)
        spare=$(spare)
        say "deleting $spare"
        az ml online-deployment delete --endpoint-name "$endpoint" --name "$spare" --yes
        ;;
    *)
        deploy "${1:-deployment.yml}"
        ;;
esac
