"""Settings that say who may call, and over what."""

from typing import Self

from pydantic import BaseModel, Field, SecretStr, model_validator

from .names import Names

# Not 'common' or 'organizations', which are everybody's.
_GUID = r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"


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
    entra_tenant: str | None = Field(
        None,
        pattern=_GUID,
        description="Take tokens of Microsoft Entra ID, too: the tenant's id. Needs "
        "entra_audiences, and entra_roles or entra_clients.",
    )
    entra_audiences: Names = Field(
        (), description="Audiences that a token may be for: 'api://APP', the application's id."
    )
    entra_roles: Names = Field(
        (), description="Application roles or scopes, one of which a token must hold."
    )
    entra_clients: Names = Field(
        (), description="Ids of applications that may call. Unset: any that has a token."
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
        """Whether a caller must show a key or a token."""
        return (self.api_key, self.api_key_file, self.entra_tenant) != (None, None, None)

    @model_validator(mode="after")
    def _check_entra(self) -> Self:
        details = (self.entra_audiences, self.entra_roles, self.entra_clients)
        if self.entra_tenant is None and any(details):
            raise ValueError("entra_audiences, entra_roles and entra_clients need entra_tenant")
        if self.entra_tenant is not None and not self.entra_audiences:
            raise ValueError("entra_tenant needs entra_audiences: whom tokens must be for")
        if self.entra_tenant is not None and not (self.entra_roles or self.entra_clients):
            raise ValueError(
                "entra_tenant needs entra_roles or entra_clients: anyone in a tenant can get a "
                "token for any application in it"
            )
        return self
