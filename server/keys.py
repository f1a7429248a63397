"""The keys that callers may show. Only their digests are kept."""

import hmac
import logging
import os
from hashlib import sha256
from pathlib import Path

from .settings import Settings, SettingsError

logger = logging.getLogger(__name__)


class KeyRing:
    """Keys given once, and those of a file, which is read again whenever it changes.

    The file is looked at with every request, so that a key taken out of it is refused from then
    on. When it cannot be read or holds no key, the last good set stays: a file that is just being
    written locks nobody out.
    """

    def __init__(self, keys: tuple[str, ...] = (), file: Path | None = None) -> None:
        """Raises SettingsError when the file cannot be read or holds no key."""
        self._given = tuple(map(_digest, keys))
        self._of_file: tuple[bytes, ...] = ()
        self._file = file
        self._seen: tuple[int, ...] | None = None
        if file is not None:
            self._seen = _state(file)
            self._of_file = _read(file)

    def find(self, key: str) -> bytes | None:
        """The digest of a key that is on the ring, or None.

        Digests are compared, in constant time and with each, so neither a key nor its length nor
        its place shows in the timing.
        """
        self._look_at_file()
        digest = _digest(key)
        matches = [hmac.compare_digest(digest, known) for known in self._given + self._of_file]
        return digest if any(matches) else None

    def reload(self) -> None:
        """Read the file, changed or not."""
        if self._file is None:
            return
        try:
            self._of_file = _read(self._file)
        except SettingsError as error:
            logger.error("%s; the keys read before stay", error)
        else:
            logger.info("read %d keys from %s", len(self._of_file), self._file)

    def _look_at_file(self) -> None:
        if self._file is not None and self._seen != (seen := _state(self._file)):
            self._seen = seen
            self.reload()


def key_ring(settings: Settings) -> KeyRing | None:
    """The settings' keys; None where they name none. Raises SettingsError."""
    keys: tuple[str, ...] = ()
    if settings.api_key is not None:
        keys = tuple(key.strip() for key in settings.api_key.get_secret_value().split(","))
        if not all(keys):
            raise SettingsError("api_key: one of the keys is empty")
    file = settings.api_key_file
    return KeyRing(keys, Path(file) if file else None) if keys or file else None


def _digest(key: str) -> bytes:
    # A header holds any bytes; half a surrogate pair has no UTF-8 of its own.
    return sha256(key.encode(errors="surrogatepass")).digest()


def _state(file: Path) -> tuple[int, ...] | None:
    """What differs once the file has changed. A link that is turned to another file has."""
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _read(file: Path) -> tuple[bytes, ...]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise SettingsError(f"the key file {file} cannot be read: {error}") from error
    keys = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not keys:
        raise SettingsError(f"the key file {file} holds no key")
    return tuple(map(_digest, keys))
