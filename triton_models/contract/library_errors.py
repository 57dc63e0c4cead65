"""The errors of libraries that are written in Rust, such as `tokenizers`."""


def is_of_a_library(error: BaseException) -> bool:
    """Return whether a library written in Rust raised the error: a plain `Exception`, or a panic.

    A panic is a `BaseException`, but no `Exception`, and its class cannot be imported.
    """
    return type(error) is Exception or not isinstance(
        error, Exception | KeyboardInterrupt | SystemExit | GeneratorExit
    )
