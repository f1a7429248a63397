#!/usr/bin/env bash
# Lets Azure Monitor add and remove instances of a deployment, by how busy its GPUs are.
#
#   deploy/autoscale.sh DEPLOYMENT [MOST]     DEPLOYMENT is blue or green; MOST instances, 3 if unset
#
# A new instance takes as long as the image, the weights and the warm-up do: minutes. So one is
# added early, and removed late. (GPU memory says nothing: the cache takes it all at the start.)
set -euo pipefail

endpoint=${ENDPOINT_NAME:-phi3v}
deployment=$1
most=${2:-3}
name="phi3v-$endpoint-$deployment"

id=$(az ml online-deployment show --endpoint-name "$endpoint" --name "$deployment" --query id --output tsv)
az monitor autoscale create --name "$name" --resource "$id" --min-count 1 --max-count "$most" --count 1
az monitor autoscale rule create --autoscale-name "$name" --scale out 1 --cooldown 10 \
    --condition "GpuUtilizationPercentage > 70 avg 5m"
az monitor autoscale rule create --autoscale-name "$name" --scale in 1 --cooldown 30 \
    --condition "GpuUtilizationPercentage < 25 avg 15m"
