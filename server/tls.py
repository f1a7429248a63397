"""The certificate that the server shows, checked before it listens."""

import ssl

from .settings import Settings, SettingsError


def check_certificate(settings: Settings) -> None:
    """Raises SettingsError, in one line, for a certificate and a key that cannot be used."""
    if settings.tls_cert is None or settings.tls_key is None:
        return
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # An encrypted key would ask for its password on the terminal.
        context.load_cert_chain(settings.tls_cert, settings.tls_key, password=lambda: "")
    except (OSError, ValueError) as error:  # missing, no PEM, encrypted, or of another certificate
        raise SettingsError(
            f"tls_cert {settings.tls_cert} and tls_key {settings.tls_key} cannot be used: {error}"
        ) from error
