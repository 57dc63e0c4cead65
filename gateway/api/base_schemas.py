"""The base of all request bodies, and the handling of fields that a schema does not define."""

from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from gateway.api import fields
from gateway.api.validation import describe_validation
from gateway.errors import InvalidInput


def _closed(schema: dict[str, Any], model: type[BaseModel]) -> None:
    """Forbid other fields in a JSON schema; for a dialect, add synonyms and ignored fields of other APIs."""
    schema["additionalProperties"] = issubclass(model, RequestBody) and model.ignores_unknown
    if issubclass(model, RequestBody) and model.is_dialect:
        properties = schema["properties"]
        for name, field in fields.OTHER_NAMES.items():
            if field in properties:
                properties[name] = {"description": f"Another name of `{field}`.", "default": None}
        for name in sorted(fields.HARMLESS | model.harmless):
            properties.setdefault(name, {"description": "Accepted and not used.", "default": None})


class RequestBody(BaseModel):
    """Base of all request bodies.

    Attributes:
        is_dialect: True for a body of an API that other servers have too. It accepts more fields, which
            `gateway/api/fields.py` defines.
        harmless: fields of this API only that cannot change a vector; they are ignored.
        ignores_unknown: True for a body whose unknown fields are ignored, as the other servers do.
    """

    # The contract needs the name `model_name`, but pydantic reserves the prefix `model_` by default. Unknown
    # fields are kept, and `parse` refuses them: pydantic would build an error for each of a hundred thousand.
    model_config = ConfigDict(protected_namespaces=(), extra="allow", json_schema_extra=_closed)

    is_dialect: ClassVar[bool] = False
    harmless: ClassVar[frozenset[str]] = frozenset()
    ignores_unknown: ClassVar[bool] = False


class Nested(RequestBody):
    """Base of objects inside a body."""

    @model_validator(mode="after")
    def _has_no_unknown_field(self) -> Self:
        if self.__pydantic_extra__:
            understand(self)
        return self


def understand(body: BaseModel) -> None:
    """Apply the fields of a body that its schema does not define.

    Raises:
        InvalidInput: a field is unknown, or asks for something that the server cannot do.
    """
    schema = type(body)
    assert issubclass(schema, RequestBody)
    for name, value in (body.__pydantic_extra__ or {}).items():
        field = name if name in schema.model_fields else None
        if schema.is_dialect:
            field = fields.OTHER_NAMES.get(name, field)
        if field in schema.model_fields:
            if value is not None:
                _take(body, name, value)
        elif schema.is_dialect and name in fields.NEEDLESS:
            if value is not None:
                fields.require_needless(name, value)
        elif schema.ignores_unknown:
            continue
        elif not schema.is_dialect or name not in fields.HARMLESS | schema.harmless:
            raise fields.unknown(name, names(schema))


def names(schema: type[BaseModel]) -> set[str]:
    """Return the names of a body's fields as callers write them."""
    return {field.alias or name for name, field in schema.model_fields.items()}


def _take(body: BaseModel, name: str, value: object) -> None:
    """Set the field that corresponds to another API's field."""
    if name not in fields.OTHER_NAMES:
        raise InvalidInput(f"{name}: the request has it twice, in two spellings")
    for field, meant in fields.meaning(name, value).items():
        before = getattr(body, field) if field in body.model_fields_set else None
        assign(body, field, meant, name)
        if before is not None and fields.OTHER_NAMES[name] == field and getattr(body, field) != before:
            raise InvalidInput(f"{name}: means {field}, which the request has too, with another value")


def assign(body: BaseModel, field: str, value: object, called: str | None = None) -> None:
    """Set a field after validating the value against the schema.

    Args:
        body: the body whose field is set.
        field: the name of the field in the schema.
        value: the new value, not yet validated.
        called: the caller's name of the field, for the error; None if it is the same.

    Raises:
        InvalidInput: the value does not fit the schema.
    """
    try:
        type(body).__pydantic_validator__.validate_assignment(body, field, value)
    except ValidationError as error:
        message = describe_validation(error)
        raise InvalidInput((called or field) + message.removeprefix(field)) from error
