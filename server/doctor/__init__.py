"""`phi3v doctor`: whether this machine can serve with these settings, found out without serving."""

from model_config import ModelConfigError, load_card

from ..keys import key_ring
from ..serving import to_engine_config
from ..settings import Settings, SettingsError
from ..tls import check_certificate
from . import device, machine, weights
from .finding import Finding, failed, ok
from .printing import print_findings

__all__ = ["Finding", "diagnose", "diagnose_without", "print_findings"]


def diagnose(settings: Settings) -> list[Finding]:
    """All findings, in the order of a start."""
    checkpoint, found = weights.check_weights(settings)
    config = None if checkpoint is None else to_engine_config(settings, checkpoint)
    return [
        machine.check_python(),
        machine.check_packages(),
        _check_settings(settings),
        *found,
        *device.check_device(config, settings.device),
        machine.check_compiler(),
        machine.check_cache_directory(),
        machine.check_shared_memory(),
        machine.check_address(settings.host, settings.port),
        machine.check_open_files(settings),
        machine.check_clock(),
    ]


def diagnose_without(problem: SettingsError) -> list[Finding]:
    """What can be said where the settings cannot be read."""
    return [
        machine.check_python(),
        machine.check_packages(),
        failed("settings", str(problem)),
        *device.check_device(None, "auto"),
        machine.check_clock(),
    ]


def _check_settings(settings: Settings) -> Finding:
    """The values are valid already; the files and cards that they name may not be there."""
    try:
        check_certificate(settings)
        key_ring(settings)
        if settings.card is not None:
            load_card(settings.card)
    except (SettingsError, ModelConfigError) as error:
        return failed("settings", str(error))
    return ok("settings", "valid")
