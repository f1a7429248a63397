"""What a command that talks to a server tells its user, each in one line.

ClientError              anything below
├── NoServerError        nobody answers at the address
├── AnswerError          the server answers with an error, or breaks off
│   └── RightsError      401 or 403: no request will fare better
└── PictureFileError     a picture's file that is missing, unreadable or no picture
"""


class ClientError(Exception):
    """Its text is for the user."""


class NoServerError(ClientError):
    """Nobody answers at the address, or not with HTTP."""


class AnswerError(ClientError):
    """The server refused a request, or its answer broke off."""


class RightsError(AnswerError):
    """The key is missing or wrong, or does not allow this."""


class PictureFileError(ClientError):
    """A file that cannot be sent as a picture."""
