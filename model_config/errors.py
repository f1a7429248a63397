"""What can be wrong with a model's description.

ModelConfigError            the base: nothing here is worth a retry
├── UnknownCardError        no card of that name
└── UnsupportedConfigError  a checkpoint's file names something that is missing or not implemented
"""


class ModelConfigError(ValueError):
    """A model's description cannot be used."""


class UnknownCardError(ModelConfigError):
    """No card has this name."""


class UnsupportedConfigError(ModelConfigError):
    """A field of a checkpoint's files is missing, or its value is not implemented."""

    def __init__(self, file: str, field: str, value: object, expected: str) -> None:
        self.file, self.field, self.value = file, field, value
        super().__init__(f"{file}: {field} is {value!r}; {expected}")
