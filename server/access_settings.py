"""Settings that say who may call, and over what."""

from pydantic import BaseModel, Field, SecretStr


class AccessSettings(BaseModel):
    """Who may call."""

    api_key: SecretStr | None = Field(
        None,
        min_length=1,
        description="The key that callers must send, or several, separated by commas; better "
        "given as a variable.",
    )
    api_key_file: str | None = Field(
        None,
        description="A file of more keys, one per line, lines with # in front left out. Read "
        "again when it changes, and at SIGHUP.",
    )
    no_auth: bool = Field(
        False, description="Let anyone call. Without a key, needed to listen beyond loopback."
    )

    tls_cert: str | None = Field(
        None, description="The server's certificate and its chain, PEM; with it, https."
    )
    tls_key: str | None = Field(None, description="The certificate's key, PEM, without a password.")

    @property
    def asks_who_calls(self) -> bool:
        """Whether a caller must show a key."""
        return self.api_key is not None or self.api_key_file is not None
