"""The base of all bodies of requests, and what becomes of the fields that a schema does not have."""

from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from gateway.api import fields
from gateway.api.validation import describe_validation
from gateway.errors import InvalidInput


def _closed(schema: dict[str, Any], model: type[BaseModel]) -> None:
    """Write into a schema that there are no other fields, and the names that other APIs have for some."""
    schema["additionalProperties"] = False
    if issubclass(model, RequestBody) and model.is_dialect:
        properties = schema["properties"]
        for name, field in fields.OTHER_NAMES.items():
            if field in properties:
                properties[name] = {"description": f"Another name of `{field}`.", "default": None}
        for name in sorted(fields.HARMLESS | model.harmless):
            properties.setdefault(name, {"description": "Accepted and not used.", "default": None})


class RequestBody(BaseModel):
    """Base of all of them.

    is_dialect: of an API that others have too; `gateway/api/fields.py` says what it takes besides its fields.
    harmless: fields that this API alone has and that change no vector.
    """

    # `model_name` is the contract's word; pydantic reserves the prefix for itself by default. Unknown fields
    # are kept and refused by `parse`: pydantic would make an error of each, of a hundred thousand.
    model_config = ConfigDict(protected_namespaces=(), extra="allow", json_schema_extra=_closed)

    is_dialect: ClassVar[bool] = False
    harmless: ClassVar[frozenset[str]] = frozenset()


class Nested(RequestBody):
    """Base of what is a field of a body."""

    @model_validator(mode="after")
    def _has_no_unknown_field(self) -> Self:
        if self.__pydantic_extra__:
            understand(self)
        return self


def understand(body: BaseModel) -> None:
    """Make of the fields that a body's schema does not have what they mean.

    Raises:
        InvalidInput: one of them is unknown, or cannot be done.
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
        elif not schema.is_dialect or name not in fields.HARMLESS | schema.harmless:
            raise fields.unknown(name, names(schema))


def names(schema: type[BaseModel]) -> set[str]:
    """The fields of a body as callers write them."""
    return {field.alias or name for name, field in schema.model_fields.items()}


def _take(body: BaseModel, name: str, value: object) -> None:
    """Set the field that another API's field stands for."""
    if name not in fields.OTHER_NAMES:
        raise InvalidInput(f"{name}: the request has it twice, in two spellings")
    for field, meant in fields.meaning(name, value).items():
        before = getattr(body, field) if field in body.model_fields_set else None
        assign(body, field, meant, name)
        if before is not None and fields.OTHER_NAMES[name] == field and getattr(body, field) != before:
            raise InvalidInput(f"{name}: means {field}, which the request has too, with another value")


def assign(body: BaseModel, field: str, value: object, called: str | None = None) -> None:
    """Set a field, by the rules of its schema.

    called: what the caller calls it.

    Raises:
        InvalidInput: the value does not fit.
    """
    try:
        type(body).__pydantic_validator__.validate_assignment(body, field, value)
    except ValidationError as error:
        message = describe_validation(error)
        raise InvalidInput((called or field) + message.removeprefix(field)) from error
