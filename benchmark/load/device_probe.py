"""How fast the device of this machine reads and multiplies, measured in a process of its own.

    python -m benchmark.load.device_probe --dtype bfloat16

prints one line of JSON. The device is the first GPU, if there is one. Run it while nothing else
works there.
"""

import argparse
import json
import subprocess

from ..child_module import child_environment, child_module
from .limits import DeviceRates

_TIMEOUT_S = 180.0


def main() -> None:
    import torch

    from ..bandwidth import BandwidthProbe
    from ..matrix_rate import matrix_flops_per_s

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    dtype = getattr(torch, parser.parse_args().dtype)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "this machine's CPU"
    found = {
        "bandwidth": BandwidthProbe(device).bytes_per_s(),
        "flops": matrix_flops_per_s(device, dtype),
        "source": f"measured before the run on {name}, in {dtype}".replace("torch.", ""),
    }
    print(json.dumps(found))


def measure_device(bytes_per_param: float) -> DeviceRates:
    """Rates of this machine's device, in the type that parameters of so many bytes have; unknown
    where the probe fails, as on a GPU whose memory the server has taken whole."""
    dtype = "float32" if bytes_per_param == 4 else "bfloat16"
    command = child_module(__name__, "--dtype", dtype)
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, env=child_environment()
        )
    except subprocess.TimeoutExpired:
        return DeviceRates(None, None, f"unknown: no measurement within {_TIMEOUT_S:.0f} s")
    if done.returncode:
        why = done.stderr.strip().split("\n")[-1]
        return DeviceRates(None, None, f"unknown: the measurement failed: {why}")
    return DeviceRates(**json.loads(done.stdout))


if __name__ == "__main__":
    main()
